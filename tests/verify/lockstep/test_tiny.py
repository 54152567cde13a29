# SPDX-License-Identifier: MIT
"""Does tiny run to the end in lockstep, and is a thunk found that lies once in 10,000 calls?"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import KernelFinder
from tests.verify.lockstep.seeds import wrong_flag_once
from vmipatch.image.elf import ElfImage
from vmipatch.verify import workload
from vmipatch.verify.boots import COMMAND_LINE
from vmipatch.verify.coverage import function_of
from vmipatch.verify.lockstep.check import Lockstep, LockstepOrder, check_lockstep
from vmipatch.verify.lockstep.events import EventKind
from vmipatch.verify.sites.shapes import patched_sites
from vmipatch.verify.user_space import Detail

pytestmark = pytest.mark.kernels

LIMIT_NS = 60_000_000_000
LIE = 10_000


def lockstep(original: Path, kernel: bytes) -> Lockstep:
    initrd = workload.initramfs()
    data = original.read_bytes()
    order = LockstepOrder(
        data, "tiny", kernel, "tiny.vmi", initrd, COMMAND_LINE, LIMIT_NS, Detail.EXACT
    )
    return check_lockstep(order)


def test_three_tinies_do_the_same_to_the_end_of_the_workload(
    kernel: KernelFinder, rewritten: KernelFinder
) -> None:
    found = lockstep(kernel("tiny"), rewritten("tiny").read_bytes())
    assert found.holds, found.headline
    assert all(end is not None and end.said[-1] == workload.DONE for end in found.ends)
    assert found.compared[EventKind.CALL] > 1500 and found.compared[EventKind.RESULT] > 1500
    for kind in (
        EventKind.FAULT,
        EventKind.CONSOLE,
        EventKind.PORT,
        EventKind.SIGNAL,
        EventKind.PROCESS,
    ):
        assert found.compared[kind] > 10, kind
    assert found.flags_checked > 50_000


@pytest.mark.slow
def test_thunk_that_lies_once_in_ten_thousand_calls_is_found_where_it_lied(
    kernel: KernelFinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = wrong_flag_once(ElfImage.parse(kernel("tiny").read_bytes(), "tiny"), LIE, monkeypatch)
    found = lockstep(kernel("tiny"), data)
    wrong = None if found.divergence is None else found.divergence.wrong
    assert wrong is not None
    image = ElfImage.parse(data, "tiny")
    site = next(site for site in patched_sites(image) if site.va == wrong.va)
    assert site.pops is not None
    assert function_of(image, site.va) in found.headline and f"{site.va:#x}" in found.headline
    match = re.search(r"(\d+) of all pushf and pop", found.headline)
    assert match is not None
    # The runtime calls the kernel's console a few times before the model begins.
    assert LIE - 20 <= int(match[1]) <= LIE

# SPDX-License-Identifier: MIT
"""Do the example guest and its rewritten twin run in lockstep, and is a lie of a thunk found?"""

from __future__ import annotations

from functools import cache

import pytest

from examples.guest import build
from tests.verify.lockstep.seeds import wrong_flag_once
from vmipatch.choices import Mode
from vmipatch.image.elf import ElfImage
from vmipatch.rewrite import rewrite
from vmipatch.verify.boots import COMMAND_LINE
from vmipatch.verify.lockstep.check import Lockstep, LockstepOrder, check_lockstep
from vmipatch.verify.lockstep.events import EventKind, SeenEvent
from vmipatch.verify.lockstep.world import WorldOrder, run_world
from vmipatch.verify.user_space import Detail

LIMIT_NS = 20_000_000_000
NTH = 10


@cache
def guest() -> ElfImage:
    return ElfImage.parse(build(), "guest")


def lockstep(kernel: bytes) -> Lockstep:
    order = LockstepOrder(
        guest().data, "guest", kernel, "guest.vmi", b"", COMMAND_LINE, LIMIT_NS, Detail.NUMBERS
    )
    return check_lockstep(order)


def test_guest_and_its_twins_do_the_same_to_the_end() -> None:
    found = lockstep(rewrite(guest()).data)
    assert found.holds, found.headline
    # The last one is int 0x82, of which the kernel has a gate for itself.
    assert found.compared[EventKind.CALL] == 80 + 1 and found.compared[EventKind.CONSOLE] > 100
    assert found.compared[EventKind.FAULT] >= 29 and found.compared[EventKind.END] == 1
    assert found.flags_checked > 500


def test_flag_read_wrong_once_is_told_with_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = wrong_flag_once(guest(), NTH, monkeypatch)
    told: list[SeenEvent] = []
    order = WorldOrder(
        "liar", Mode.PARAVIRT, kernel, "guest.vmi", b"", COMMAND_LINE, LIMIT_NS, Detail.NUMBERS
    )
    assert run_world(order, told.extend).ended_by_guest
    (wrong,) = (event for event in told if event.is_wrong)
    image = ElfImage.parse(kernel, "liar")
    place = image.symbols.place_of(wrong.va)
    assert wrong.text.startswith(f"pushf and pop at {place} ({wrong.va:#x}) reads it as ")
    assert f"{NTH} of all pushf and pop" in wrong.text

# SPDX-License-Identifier: MIT
"""Does a command that meets a damaged kernel end with one clear error, and no half-written file?"""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from examples.guest.build import build
from tests.cli.judge import check_command
from tests.support.damage import Damage, damages
from vmipatch.image.elf import ElfImage
from vmipatch.image.reloc_list import relocation_list
from vmipatch.image.relocations import Relocations
from vmipatch.image.wrap import wrap
from vmipatch.verify.static import check_static

SETTINGS = settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@cache
def guest() -> ElfImage:
    return ElfImage.parse(build(), "guest")


@cache
def packed() -> bytes:
    return wrap(guest(), relocation_list(guest(), Relocations.of(guest())))


@SETTINGS
@given(damage=damages)
def test_rewrite_of_a_damaged_vmlinux(damage: Damage) -> None:
    data = damage.apply(guest())
    written = check_command(data, "rewrite")
    if written is not None:
        assert check_static(ElfImage.parse(data, "damaged"), ElfImage.parse(written, "out")).holds


@SETTINGS
@given(damage=damages)
def test_wrap_of_a_damaged_vmlinux(damage: Damage) -> None:
    check_command(damage.apply(guest()), "wrap")


@SETTINGS
@given(
    at=st.one_of(st.floats(0, 1, exclude_max=True), st.integers(0x1F1, 0x270)),
    value=st.binary(min_size=1, max_size=4),
    cut=st.one_of(st.none(), st.floats(0, 1)),
)
@pytest.mark.parametrize("command", ["rewrite", "restore"])
def test_damaged_bzimages(command: str, at: float, value: bytes, cut: float | None) -> None:
    """Anywhere in the file, and in the setup header, which says where everything is."""
    data = bytearray(packed())
    start = at if isinstance(at, int) else int(at * len(data))
    data[start : start + len(value)] = value
    check_command(bytes(data if cut is None else data[: int(cut * len(data))]), command)

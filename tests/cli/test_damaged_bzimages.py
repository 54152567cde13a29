# SPDX-License-Identifier: MIT
"""Does a command that meets a damaged bzImage of a kernel build end with one clear error?

Other than the small bzImages of test_damaged_files.py these have boot code that stays, a packed
payload and notes.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cli.judge import check_command
from tests.conftest import KernelFinder
from tests.support.damage import Damage, damages
from vmipatch.choices import BootCodeChoice
from vmipatch.errors import InputNotUnderstood
from vmipatch.image.bzimage import BzImage
from vmipatch.image.elf import ElfImage
from vmipatch.image.packing import Compression, Packer, Recipe
from vmipatch.image.repack.repack import repack
from vmipatch.restore import restore_bzimage
from vmipatch.rewrite.bzimage import rewrite_bzimage

pytestmark = pytest.mark.kernels

FIXTURE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
FEW, MANY = settings(FIXTURE, max_examples=5), settings(FIXTURE, max_examples=200)
PLAIN = Recipe(Compression.NONE, Packer.LIBRARY, "")

places = st.one_of(
    st.tuples(st.just("setup"), st.floats(0, 1, exclude_max=True)),
    st.tuples(st.just("header"), st.floats(0, 1, exclude_max=True)),
    st.tuples(st.just("head"), st.floats(0, 1, exclude_max=True)),
    st.tuples(st.just("tail"), st.floats(0, 1, exclude_max=True)),
    st.tuples(st.just("file"), st.floats(0, 1, exclude_max=True)),
)
values = st.one_of(st.binary(min_size=1, max_size=4), st.sampled_from([b"\0" * 4, b"\xff" * 4]))


@cache
def original(vmlinux: Path) -> bytes:
    return vmlinux.with_name("bzImage").read_bytes()


@cache
def rewritten(vmlinux: Path) -> bytes:
    data = original(vmlinux)
    debug = ElfImage.parse(vmlinux.read_bytes(), "debug")
    return rewrite_bzimage(data, BzImage.parse(data), debug, choice=BootCodeChoice.KEEP).data


def damaged(data: bytes, place: tuple[str, float], value: bytes) -> bytes:
    """The bzImage with `value` somewhere in one of its parts."""
    header = BzImage.parse(data).header
    payload_off = header.code_off + header.payload_offset
    end = payload_off + header.payload_length
    part = {
        "setup": range(header.code_off),
        "header": range(0x1F1, 0x270),
        "head": range(header.code_off, payload_off),
        "tail": range(end, len(data)),
        "file": range(len(data)),
    }[place[0]]
    result = bytearray(data)
    at = part[int(place[1] * len(part))]
    result[at : at + len(value)] = value[: len(data) - at]
    return bytes(result)


@FEW
@given(place=places, value=values)
def test_rewrite_with_the_debug_twin(
    kernel: KernelFinder, place: tuple[str, float], value: bytes
) -> None:
    vmlinux = kernel("tiny")
    data = damaged(original(vmlinux), place, value)
    check_command(data, "rewrite", "--debug", str(vmlinux))


@FEW
@given(damage=damages)
def test_rewrite_with_a_damaged_debug_twin(kernel: KernelFinder, damage: Damage) -> None:
    vmlinux = kernel("tiny")
    twin = damage.apply(ElfImage.parse(vmlinux.read_bytes()))
    check_command(original(vmlinux), "rewrite", twin=twin)


@FEW
@given(place=places, value=values)
def test_restore_gives_the_input_or_an_error(
    kernel: KernelFinder, place: tuple[str, float], value: bytes
) -> None:
    vmlinux = kernel("tiny")
    data = damaged(rewritten(vmlinux), place, value)
    back = check_command(data, "restore")
    assert back in (None, original(vmlinux))


@pytest.mark.slow
@MANY
@given(place=places, value=values)
def test_any_damage_of_a_rewritten_bzimage_is_an_error_or_harmless(
    kernel: KernelFinder, place: tuple[str, float], value: bytes
) -> None:
    vmlinux = kernel("tiny")
    data = damaged(rewritten(vmlinux), place, value)
    try:
        assert restore_bzimage(data, "damaged").data == original(vmlinux)
    except InputNotUnderstood as error:
        assert error.file == "damaged"


@pytest.mark.slow
@MANY
@given(place=places, value=values)
def test_another_kernel_in_damaged_boot_code(
    kernel: KernelFinder, place: tuple[str, float], value: bytes
) -> None:
    """The same kernel and no compressor: many files in the time of one rewriting."""
    check_repack(damaged(original(kernel("tiny")), place, value))


def check_repack(data: bytes) -> None:
    """Put the kernel of a bzImage into it again: it comes out, or there is an error."""
    try:
        old = BzImage.parse(data, "damaged")
        made = repack(data, old, ElfImage.parse(old.vmlinux, "damaged"), old.relocs, PLAIN)
    except InputNotUnderstood as error:
        assert error.file == "damaged"
        return
    again = BzImage.parse(made.data)
    assert again.relocs == old.relocs
    loads = [list(ElfImage.parse(each.vmlinux).loads) for each in (old, again)]
    assert loads[0] == loads[1]

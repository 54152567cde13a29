# SPDX-License-Identifier: MIT
"""Is the relocation list the one that the kernel's own build makes?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.elfbuilder import DATA, TEXT, ElfBuilder
from vmipatch.errors import MalformedImage
from vmipatch.image.bzimage import BzImage
from vmipatch.image.elf import ElfImage
from vmipatch.image.reloc_list import emit_list, parse_list, relocation_list
from vmipatch.image.relocations import R_386_32, R_386_PC32, Relocations

TEXT_VA, DATA_VA = 0xC1000000, 0xC1010000


def listed(builder: ElfBuilder) -> tuple[int, ...]:
    image = builder.image()
    return relocation_list(image, Relocations.of(image))


def kernel_with(symbol: str, va: int) -> ElfBuilder:
    """A word in .data that refers to `symbol` at `va`."""
    builder = ElfBuilder()
    builder.section(".text", TEXT_VA, bytes(64), TEXT)
    builder.section(".data", DATA_VA, bytes(64), DATA)
    builder.symbol(symbol, va)
    builder.relocation(DATA_VA + 8, R_386_32, symbol)
    return builder


def test_absolute_word_is_listed_and_relative_word_is_not() -> None:
    builder = kernel_with("function", TEXT_VA + 16)
    builder.relocation(TEXT_VA + 4, R_386_32, "function")
    builder.relocation(TEXT_VA + 9, R_386_PC32, "function")
    assert listed(builder) == (TEXT_VA + 4, DATA_VA + 8)


def test_plain_number_is_not_listed() -> None:
    assert listed(kernel_with("kexec_control_code_size", 0x1CE)) == ()


@pytest.mark.parametrize(
    "name", ["_end", "__end_rodata", "__start___ksymtab", "__stop___param", "__end_pci_fixups_late"]
)
def test_address_that_the_linker_made_absolute_is_listed(name: str) -> None:
    assert listed(kernel_with(name, 0xC2000000)) == (DATA_VA + 8,)


@given(st.sets(st.integers(1, 0xFFFFFFFF)))
def test_list_survives_the_payload_form(addresses: set[int]) -> None:
    assert parse_list(emit_list(tuple(addresses))) == tuple(sorted(addresses))


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"\0\0\0",
        emit_list([1, 2])[4:],
        emit_list([1, 2]) + b"\2\0\0\0",
        emit_list([1]) + bytes(4),
    ],
    ids=["empty", "torn", "no stop word", "twice", "second stop word"],
)
def test_broken_list_is_refused(blob: bytes) -> None:
    with pytest.raises(MalformedImage):
        parse_list(blob)


@pytest.mark.kernels
@pytest.mark.parametrize("name", ["tiny", "tiny-os", "smp-pae"])
def test_list_of_vmlinux_is_the_one_in_its_bzimage(
    kernel: Callable[[str], Path], name: str
) -> None:
    vmlinux = kernel(name)
    image = ElfImage.parse(vmlinux.read_bytes(), name)
    built = BzImage.parse(vmlinux.with_name("bzImage").read_bytes(), name)
    assert relocation_list(image, Relocations.of(image)) == built.relocs

# SPDX-License-Identifier: MIT
"""Is a vmlinux told from that of another kernel, and known where a bzImage lacks a part of it?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.elfbuilder import DATA, RODATA, TEXT, ElfBuilder
from tests.support.nobits import without_bytes
from vmipatch.errors import InputNotUnderstood
from vmipatch.image.bzimage import BzImage
from vmipatch.image.elf import ElfImage
from vmipatch.image.packing import Compression, Payload
from vmipatch.image.relocations import R_386_32
from vmipatch.image.setup_header import SetupHeader
from vmipatch.image.twin import require_twin

TEXT_VA, DATA_VA = 0xC1000000, 0xC1010000
BSS_VA, END_VA = DATA_VA + 0x1000, DATA_VA + 0x3000
MODINFO = b"license=GPL\0author=A. Uthor\0"
RELOCS = (TEXT_VA + 4,)
NOTES_VA = TEXT_VA + 0x9000
WORDS_OF_NOTES = (NOTES_VA, NOTES_VA + 8)


def vmlinux(code: bytes = b"\x90" * 4, modinfo: bytes = MODINFO) -> bytes:
    """A kernel with .modinfo after _end, as Linux has it since 6.17."""
    builder = ElfBuilder()
    builder.section(".text", TEXT_VA, code.ljust(4, b"\x90") + b"\0\0\0\xc1\xc3", TEXT)
    builder.section(".rodata", TEXT_VA + 0x8000, b"constants", RODATA)
    builder.section(".data", DATA_VA, b"data".ljust(0x1000, b"\0"), DATA)
    builder.section(".bss", BSS_VA, bytes(END_VA - BSS_VA), DATA)
    builder.section(".modinfo", END_VA, modinfo, DATA)
    builder.symbol("_text", TEXT_VA)
    builder.note(".notes", NOTES_VA, bytes(16))
    for va in (TEXT_VA + 4, *WORDS_OF_NOTES):
        builder.relocation(va, R_386_32, "_text")
    return without_bytes(builder.build(), ".bss")


def packed(
    elf: bytes, relocs: tuple[int, ...] | None = RELOCS, *, headers: bool = False
) -> BzImage:
    """A bzImage as the build makes it: zeros for .modinfo, and no header unless asked for."""
    image = ElfImage.parse(elf)
    section = image.section_by_name[".modinfo"]
    zeros = bytearray(elf)
    zeros[section.off : section.off + section.size] = bytes(section.size)
    if not headers:
        names = image.sections[-1]
        zeros = zeros.replace(b".modinfo\0", b".comment\0", 1)
        assert zeros[names.off : names.off + names.size].count(b".comment") == 1
    payload = Payload(Compression.NONE, bytes(zeros), bytes(zeros))
    return BzImage("bzImage", SetupHeader(), payload, bytes(zeros), relocs, "")


def test_section_that_the_build_does_not_pack_is_no_difference() -> None:
    twin = require_twin(packed(vmlinux()), ElfImage.parse(vmlinux()))
    assert twin.unpacked == {".modinfo"}
    assert twin.relocs == RELOCS


def test_section_that_is_packed_as_zeros_is_a_difference() -> None:
    with pytest.raises(InputNotUnderstood, match=f"first other byte is at {END_VA:#x}"):
        require_twin(packed(vmlinux(), headers=True), ElfImage.parse(vmlinux()))


def test_other_bytes_are_of_another_kernel_wherever_they_are() -> None:
    with pytest.raises(InputNotUnderstood, match=f"first other byte is at {TEXT_VA:#x}"):
        require_twin(packed(vmlinux(b"\xfa")), ElfImage.parse(vmlinux()))
    other = replace(packed(vmlinux()), vmlinux=vmlinux().replace(b".modinfo\0", b".comment\0"))
    with pytest.raises(InputNotUnderstood, match=f"first other byte is at {END_VA:#x}"):
        require_twin(other, ElfImage.parse(vmlinux(modinfo=MODINFO[::-1])))


def test_relocation_that_one_of_them_knows_is_of_another_kernel() -> None:
    with pytest.raises(InputNotUnderstood, match=f"relocation of {TEXT_VA + 4:#x} is known to one"):
        require_twin(packed(vmlinux(), (TEXT_VA + 8,)), ElfImage.parse(vmlinux()))


def test_bzimage_without_a_list_agrees_with_its_vmlinux() -> None:
    assert require_twin(packed(vmlinux(), None), ElfImage.parse(vmlinux())).relocs is None


@pytest.mark.parametrize("words", [(), WORDS_OF_NOTES])
def test_list_has_all_words_of_notes_or_none(words: tuple[int, ...]) -> None:
    twin = require_twin(packed(vmlinux(), RELOCS + words), ElfImage.parse(vmlinux()))
    assert twin.relocs == RELOCS + words
    assert twin.lists_notes is bool(words)


def test_list_with_some_words_of_notes_is_of_another_kernel() -> None:
    with pytest.raises(InputNotUnderstood, match="is known to one of them only"):
        require_twin(packed(vmlinux(), RELOCS + WORDS_OF_NOTES[:1]), ElfImage.parse(vmlinux()))

# SPDX-License-Identifier: MIT
"""Is a kernel without its debug information otherwise the same kernel?"""

from __future__ import annotations

from tests.support.elfbuilder import TEXT, ElfBuilder
from vmipatch.image.elf import ElfImage
from vmipatch.image.relocations import R_386_32, Relocations
from vmipatch.image.trim import without_debug
from vmipatch.image.types import SectionFlag

TEXT_VA, DATA_VA = 0xC1000000, 0xC1010000
AFTER_ALL = 0xF0000000
"""The builder puts sections into the file in the order of their addresses."""
DWARF = b"d" * 5000


def kernel(*, debug: bool) -> ElfImage:
    builder = ElfBuilder(entry=0x01000000)
    builder.section(".text", TEXT_VA, b"\xfa\xc3", TEXT)
    builder.section(".data", DATA_VA, TEXT_VA.to_bytes(4, "little"))
    builder.symbol("f", TEXT_VA)
    builder.relocation(DATA_VA, R_386_32, "f")
    if debug:
        builder.section(".debug_info", AFTER_ALL, DWARF, SectionFlag.NONE)
    builder.section(".comment", AFTER_ALL + len(DWARF), b"kept", SectionFlag.NONE)
    return builder.image()


def test_only_debug_information_is_gone() -> None:
    whole = kernel(debug=True)
    trimmed = without_debug(whole)
    assert len(whole.data) - len(trimmed.data) >= len(DWARF) - 8
    assert [s.name for s in trimmed.sections] == [s.name for s in whole.sections]
    for was, now in zip(whole.sections, trimmed.sections, strict=True):
        if was.is_debug:
            assert not now.size
        else:
            assert trimmed.section_bytes(now) == whole.section_bytes(was), was.name
            assert (now.va, now.kind, now.link, now.info) == (was.va, was.kind, was.link, was.info)
    assert trimmed.segments == whole.segments
    assert trimmed.symbols.address("f") == TEXT_VA
    assert len(Relocations.of(trimmed)) == len(Relocations.of(whole)) == 1


def test_kernel_without_debug_information_stays_as_it_is() -> None:
    plain = kernel(debug=False)
    assert without_debug(plain) is plain

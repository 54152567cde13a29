# SPDX-License-Identifier: MIT
"""Does the ELF builder write what was asked for, as a reader of its own kind sees it."""

from __future__ import annotations

import struct

from tests.support.elfbuilder import DATA, STB_LOCAL, TEXT, ElfBuilder
from vmipatch.image.relocations import R_386_32, R_386_PC32, Relocations
from vmipatch.image.symbols import SHN_ABS, STT_FUNC


def sample() -> ElfBuilder:
    builder = ElfBuilder(entry=0x1000010)
    text = builder.section(".text", 0xC1000000, bytes(range(100)), TEXT)
    builder.section(".rodata", 0xC1001000, struct.pack("<II", 0, text.va + 0x10))
    builder.section("__table", 0xC1001040, b"table")
    builder.section(".data", 0xC1003000, b"data", DATA)
    builder.nobits(".bss", 0xC1003040, 0x2000)
    builder.symbol("function", text.va + 0x10, size=4, kind=STT_FUNC)
    builder.symbol("_etext", text.end_va)
    builder.symbol("local", 0xC1001040, binding=STB_LOCAL)
    builder.symbol("constant", 0x1234)
    builder.relocation(0xC1001004, R_386_32, "function")
    builder.relocation(0xC1000020, R_386_PC32, "function")
    return builder


def test_bytes_are_at_their_addresses() -> None:
    image = sample().image()
    assert image.entry == 0x1000010
    assert image.read(0xC1000000, 100) == bytes(range(100))
    assert image.read(0xC1001040, 5) == b"table"
    assert [s.name for s in image.executable_sections] == [".text"]
    assert not image.section_by_name[".bss"].has_bytes


def test_segments_map_every_section_to_its_physical_address() -> None:
    image = sample().image()
    for section in image.allocated_sections:
        holders = [s for s in image.loads if s.va <= section.va < s.va + s.mem_len]
        assert len(holders) == 1
        segment = holders[0]
        assert segment.pa == segment.va - 0xC0000000
        assert segment.off % 0x1000 == segment.va % 0x1000
        if section.has_bytes:
            assert section.off - segment.off == section.va - segment.va
            assert section.end_va - segment.va <= segment.file_len
    assert len(list(image.loads)) == 3


def test_symbols_know_their_sections() -> None:
    image = sample().image()
    names = {s.name: s for s in image.symbols if s.name}
    text = image.section_by_name[".text"].index
    assert (names["function"].section, names["function"].size) == (text, 4)
    assert names["_etext"].section == text
    assert names["constant"].section == SHN_ABS
    assert [s.name for s in image.symbols][1] == "local"


def test_relocations_name_word_kind_and_symbol() -> None:
    image = sample().image()
    entries = Relocations.of(image).entries
    assert entries["va"].tolist() == [0xC1000020, 0xC1001004]
    assert entries["kind"].tolist() == [R_386_PC32, R_386_32]
    assert [image.symbols[int(i)].name for i in entries["symbol"]] == ["function"] * 2
    assert entries["value"].tolist()[1] == 0xC1000010


def test_equal_calls_give_equal_bytes() -> None:
    assert sample().build() == sample().build()

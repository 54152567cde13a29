# SPDX-License-Identifier: MIT
"""Which image does a sample table point into? A little code and data, and ways to damage it."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.support.elfbuilder import DATA, TEXT, BuiltSection, ElfBuilder
from vmipatch.image.elf import ElfImage
from vmipatch.tables.table import TableName

TEXT_VA, RODATA_VA, TABLE_VA, DATA_VA = 0xC1000000, 0xC1002000, 0xC1003000, 0xC1005000
TEXT_LEN = 0x400
OUTSIDE = 0x1234
"""An address that no section holds."""


@dataclass(frozen=True, slots=True)
class TableDamage:
    """Bytes to overwrite at an address, and a word that the refusal must contain."""

    reason: str
    va: int
    data: bytes

    def of(self, image: ElfImage) -> ElfImage:
        """The image with the bytes overwritten."""
        data = bytearray(image.data)
        off = image.offset_of(self.va)
        data[off : off + len(self.data)] = self.data
        return ElfImage.parse(bytes(data), image.name)


@dataclass(frozen=True, slots=True)
class TableSample:
    """A valid image with one table, what it must be read as, and what must be refused."""

    name: TableName
    image: ElfImage
    targets: Mapping[int, int]
    """Address of each word, and the address it points at."""
    places: list[tuple[int, int]] = field(default_factory=list)
    """Address and length of each place in the code."""
    damages: list[TableDamage] = field(default_factory=list)
    values: bool = False
    """The words are no addresses: they stay as they are."""

    def __str__(self) -> str:
        return self.name.value


@dataclass(slots=True)
class TextScene:
    """A .text of nops to put instructions into, and sections after it."""

    builder: ElfBuilder = field(default_factory=ElfBuilder)
    code: bytearray = field(default_factory=lambda: bytearray(b"\x90" * TEXT_LEN))

    def put(self, at: int, code: str | bytes) -> int:
        """Write bytes (or hexadecimal) at an offset of .text; returns their address."""
        data = bytes.fromhex(code) if isinstance(code, str) else code
        self.code[at : at + len(data)] = data
        return TEXT_VA + at

    def jump(self, at: int, target_va: int, opcode: str = "e9") -> int:
        """Write a 5-byte jump or call; returns its address."""
        return self.put(at, bytes.fromhex(opcode) + relative(TEXT_VA + at + 5, target_va))

    def table(self, name: str, data: bytes, start: str = "", stop: str = "") -> BuiltSection:
        """Add the section of the table, and its boundary symbols if it has any."""
        section = self.builder.section(name, TABLE_VA, data)
        if start:
            self.builder.bounds(start, stop, section)
        return section

    def image(self) -> ElfImage:
        """The file with the code as it is now, read."""
        self.builder.section(".text", TEXT_VA, bytes(self.code), TEXT)
        self.builder.section(".data", DATA_VA, bytes(0x100), DATA)
        return self.builder.image("sample")


def word(value: int) -> bytes:
    """One little-endian u32."""
    return struct.pack("<I", value & 0xFFFFFFFF)


def absolute(from_va: int, to_va: int) -> bytes:
    """One little-endian u32: the address itself, wherever it stands."""
    return word(to_va)


def relative(from_va: int, to_va: int) -> bytes:
    """One little-endian s32: the distance."""
    return word(to_va - from_va)


def relatives(*targets: int, at_va: int = TABLE_VA) -> bytes:
    """Words that follow each other from `at_va`, each holding the distance to its target."""
    return b"".join(relative(at_va + 4 * i, target) for i, target in enumerate(targets))


def pointing(first_va: int, step: int, targets: list[int]) -> dict[int, int]:
    """Expected words: one every `step` bytes."""
    return {first_va + step * i: target for i, target in enumerate(targets)}

# SPDX-License-Identifier: MIT
"""How does a test write a module of a few dozen instructions?

    module = SmallModule()
    module.section(".text").function("f", "9c 58 fa", Call("printk"), "c3")
    done = rewrite_module(module.build(), "small")

Code is hexadecimal with references in between. A name that no section defines is undefined: the
kernel has to supply it. Written from the System V ABI (chapter 4 and the i386 supplement).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from tests.support.elfbuilder import (
    FILE_HEADER,
    RELOCATION,
    RODATA,
    SECTION_HEADER,
    STB_GLOBAL,
    STB_LOCAL,
    SYMBOL,
    TEXT,
)
from vmipatch.image.module import ET_REL
from vmipatch.image.relocations import R_386_32, R_386_PC32
from vmipatch.image.symbols import STT_FUNC, STT_NOTYPE, STT_SECTION
from vmipatch.image.types import SectionFlag, SectionKind

EM_386 = 3
THIS_MODULE = ".gnu.linkonce.this_module"


@dataclass(frozen=True, slots=True)
class BranchTo:
    """A branch with 32 bits of displacement and a relocation."""

    symbol: str
    opcode: str = "e8"


@dataclass(frozen=True, slots=True)
class Word:
    """An absolute word with a relocation."""

    symbol: str
    addend: int = 0


@dataclass(frozen=True, slots=True)
class Distance:
    """A word that counts from itself, with a relocation."""

    symbol: str
    addend: int = 0


@dataclass(frozen=True, slots=True)
class Short:
    """A branch with 8 bits of displacement to a function of the section."""

    opcode: str
    symbol: str


Part = str | bytes | BranchTo | Word | Distance | Short


@dataclass(slots=True)
class Piece:
    """One section under construction."""

    name: str
    flags: SectionFlag
    align: int
    data: bytearray = field(default_factory=bytearray)
    relocations: list[tuple[int, int, str]] = field(default_factory=list)
    labels: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    """Offset, kind and size by name."""
    shorts: list[tuple[int, str]] = field(default_factory=list)

    def put(self, *parts: Part) -> int:
        """Append bytes and references; returns the offset of the first."""
        start_off = len(self.data)
        for part in parts:
            match part:
                case str():
                    self.data += bytes.fromhex(part)
                case bytes():
                    self.data += part
                case BranchTo(symbol, opcode):
                    self.data += bytes.fromhex(opcode)
                    self._refer(symbol, R_386_PC32, -4)
                case Word(symbol, addend):
                    self._refer(symbol, R_386_32, addend)
                case Distance(symbol, addend):
                    self._refer(symbol, R_386_PC32, addend)
                case Short(opcode, symbol):
                    self.data += bytes.fromhex(opcode) + b"\0"
                    self.shorts.append((len(self.data) - 1, symbol))
        return start_off

    def _refer(self, symbol: str, kind: int, addend: int) -> None:
        self.relocations.append((len(self.data), kind, symbol))
        self.data += struct.pack("<i", addend)

    def function(self, name: str, *parts: Part, filler: bytes = b"\x90") -> int:
        """Append a function at the section's alignment; returns its offset."""
        self.data += filler * (-len(self.data) % self.align)
        start_off = self.put(*parts)
        self.labels[name] = (start_off, STT_FUNC, len(self.data) - start_off)
        return start_off


class SmallModule:
    """Sections with their symbols and relocations."""

    def __init__(self) -> None:
        self.pieces: dict[str, Piece] = {}
        self.section(THIS_MODULE, RODATA).put(bytes(64))

    def section(self, name: str, flags: SectionFlag = TEXT, align: int = 16) -> Piece:
        """The section of this name; a new one if missing."""
        return self.pieces.setdefault(name, Piece(name, flags, align))

    def build(self) -> bytes:
        """The file's bytes."""
        pieces = list(self.pieces.values())
        for piece in pieces:
            for at, symbol in piece.shorts:
                piece.data[at : at + 1] = struct.pack("b", piece.labels[symbol][0] - at - 1)
        symbols, number = self._symbols(pieces)
        names = b"\0" + b"".join(name.encode() + b"\0" for name, *_ in symbols)
        table, at = bytes(SYMBOL.size), 1
        for name, value, size, info, section in symbols:
            table += SYMBOL.pack(at, value, size, info, 0, section)
            at += len(name) + 1
        local = 1 + len(pieces)
        symtab = 1 + len(pieces) + sum(bool(p.relocations) for p in pieces)
        rows: list[tuple[str, SectionKind, SectionFlag, bytes, int, int, int, int]] = [
            ("", SectionKind.NULL, SectionFlag.NONE, b"", 0, 0, 0, 0)
        ]
        rows += [
            (p.name, SectionKind.PROGBITS, p.flags, bytes(p.data), 0, 0, p.align, 0) for p in pieces
        ]
        for index, piece in enumerate(pieces, start=1):
            if piece.relocations:
                entries = b"".join(
                    RELOCATION.pack(off, number[name] << 8 | kind)
                    for off, kind, name in piece.relocations
                )
                rows.append(
                    (f".rel{piece.name}", SectionKind.REL, SectionFlag.NONE, entries, symtab,
                     index, 4, RELOCATION.size)
                )  # fmt: skip
        none = SectionFlag.NONE
        rows.append((".symtab", SectionKind.SYMTAB, none, table, symtab + 1, local, 4, SYMBOL.size))
        rows.append((".strtab", SectionKind.STRTAB, none, names, 0, 0, 1, 0))
        section_names = b"\0" + b"".join(row[0].encode() + b"\0" for row in rows[1:])
        section_names += b".shstrtab\0"
        rows.append((".shstrtab", SectionKind.STRTAB, none, section_names, 0, 0, 1, 0))
        return _file(rows, section_names)

    def _symbols(
        self, pieces: list[Piece]
    ) -> tuple[list[tuple[str, int, int, int, int]], dict[str, int]]:
        """Section symbols (under their section's name), defined and undefined ones."""
        rows = [
            ("", 0, 0, STB_LOCAL << 4 | STT_SECTION, index) for index in range(1, len(pieces) + 1)
        ]
        number = {piece.name: index for index, piece in enumerate(pieces, start=1)}
        for index, piece in enumerate(pieces, start=1):
            for name, (off, kind, size) in piece.labels.items():
                rows.append((name, off, size, STB_GLOBAL << 4 | kind, index))
                number[name] = len(rows)
        used = {name for piece in pieces for _, _, name in piece.relocations}
        for name in sorted(used - number.keys()):
            rows.append((name, 0, 0, STB_GLOBAL << 4 | STT_NOTYPE, 0))
            number[name] = len(rows)
        return rows, number


def _file(
    rows: list[tuple[str, SectionKind, SectionFlag, bytes, int, int, int, int]],
    section_names: bytes,
) -> bytes:
    out, headers = bytearray(FILE_HEADER.size), b""
    for name, kind, flags, data, link, info, align, entry_len in rows:
        out += bytes(-len(out) % max(align, 1))
        name_at = section_names.find(b"\0" + name.encode() + b"\0") + 1
        headers += SECTION_HEADER.pack(
            name_at if name else 0, int(kind), int(flags), 0, len(out) if name else 0, len(data),
            link, info, align, entry_len,
        )  # fmt: skip
        out += data
    out += bytes(-len(out) % 4)
    FILE_HEADER.pack_into(
        out, 0, b"\x7fELF\x01\x01\x01".ljust(16, b"\0"), ET_REL, EM_386, 1, 0, 0, len(out), 0,
        FILE_HEADER.size, 0, 0, SECTION_HEADER.size, len(rows), len(rows) - 1,
    )  # fmt: skip
    return bytes(out + headers)

# SPDX-License-Identifier: MIT
"""How the linked guest becomes an ELF file like the vmlinux that `ld --emit-relocs` leaves."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from examples.guest.link import (
    PAGE_LEN,
    PAGE_OFFSET,
    LinkedProgram,
    LinkedSection,
    LinkedSymbol,
    Reference,
)

EHDR = struct.Struct("<16sHHIIIIIHHHHHH")
PHDR = struct.Struct("<8I")
SHDR = struct.Struct("<10I")
SYM = struct.Struct("<IIIBBH")
REL = struct.Struct("<II")

ET_EXEC, EM_386 = 2, 3
PT_LOAD = 1
SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_NOBITS, SHT_REL = 1, 2, 3, 8, 9
SHF_WRITE, SHF_ALLOC, SHF_EXEC, SHF_INFO_LINK = 1, 2, 4, 0x40
STT_SECTION = 3

Members = tuple[tuple[str, ...], int]
SEGMENTS: tuple[Members, ...] = (
    ((".text", ".rodata", "__ex_table"), 5),
    ((".data",), 6),
    ((".init.text", ".init.data", ".bss"), 7),
)
"""Sections of each PT_LOAD and its flags (X 1, W 2, R 4)."""


@dataclass(slots=True)
class Strings:
    """A string table that grows; equal strings share one place."""

    data: bytearray = field(default_factory=lambda: bytearray(1))
    known: dict[str, int] = field(default_factory=lambda: {"": 0})

    def offset(self, text: str) -> int:
        """Where `text` stands in the table."""
        if text not in self.known:
            self.known[text] = len(self.data)
            self.data += text.encode("ascii") + b"\0"
        return self.known[text]


@dataclass(slots=True)
class Header:
    """One section header to be, with the bytes that belong to it."""

    name: str
    kind: int
    flags: int = 0
    va: int = 0
    data: bytes = b""
    link: int = 0
    info: int = 0
    align: int = 1
    entry_len: int = 0
    off: int = 0


def write_elf(
    kernel: LinkedProgram, entry_pa: int, segments: Sequence[Members] = SEGMENTS
) -> bytes:
    """The ELF file of `kernel`, entered at physical address `entry_pa`."""
    headers = [Header("", 0, align=0)] + [_allocated(section) for section in kernel.sections]
    index = {header.name: i for i, header in enumerate(headers)}
    symtab, strtab, numbers, first_global = _symbols(kernel, index)
    rels = [section for section in kernel.sections if section.references]
    symtab_index = len(headers) + len(rels)
    for section in rels:
        headers.append(_relocations(section, numbers, symtab_index, index[section.place.name]))
    headers.append(
        Header(".symtab", SHT_SYMTAB, data=symtab, link=symtab_index + 1, info=first_global,
               align=4, entry_len=SYM.size)
    )  # fmt: skip
    headers.append(Header(".strtab", SHT_STRTAB, data=strtab))
    names = Strings()
    for header in headers:
        names.offset(header.name)
    names.offset(".shstrtab")
    headers.append(Header(".shstrtab", SHT_STRTAB, data=bytes(names.data)))
    return _file(headers, names, entry_pa, segments)


def _allocated(section: LinkedSection) -> Header:
    place = section.place
    flags = SHF_ALLOC | SHF_WRITE * place.writable | SHF_EXEC * place.executable
    kind = SHT_PROGBITS if place.has_bytes else SHT_NOBITS
    return Header(place.name, kind, flags, section.va, section.code, align=place.align)


def _relocations(
    section: LinkedSection, numbers: dict[str, int], symtab: int, target: int
) -> Header:
    def entry(reference: Reference) -> bytes:
        return REL.pack(reference.va, numbers[reference.symbol] << 8 | reference.kind)

    data = b"".join(entry(reference) for reference in section.references)
    return Header(
        f".rel{section.place.name}", SHT_REL, SHF_INFO_LINK, data=data, link=symtab, info=target,
        align=4, entry_len=REL.size,
    )  # fmt: skip


def _symbols(
    kernel: LinkedProgram, index: dict[str, int]
) -> tuple[bytes, bytes, dict[str, int], int]:
    """.symtab, .strtab, the number of each name, and the first global number."""
    strings = Strings()
    rows = [SYM.pack(0, 0, 0, 0, 0, 0)]
    numbers: dict[str, int] = {}
    for section in kernel.sections:
        name = section.place.name
        numbers[name] = len(rows)
        rows.append(SYM.pack(0, section.va, 0, STT_SECTION, 0, index[name]))

    def order(symbol: LinkedSymbol) -> tuple[bool, int, str]:
        return symbol.is_global, symbol.va, symbol.name

    ordered = sorted(kernel.symbols, key=order)
    first_global = len(rows) + sum(not symbol.is_global for symbol in ordered)
    for symbol in ordered:
        numbers[symbol.name] = len(rows)
        info = symbol.is_global << 4 | symbol.kind
        name_off = strings.offset(symbol.name)
        rows.append(SYM.pack(name_off, symbol.va, symbol.size, info, 0, index[symbol.section]))
    return b"".join(rows), bytes(strings.data), numbers, first_global


def _file(
    headers: list[Header], names: Strings, entry_pa: int, segments: Sequence[Members]
) -> bytes:
    """Lay the file out: allocated sections congruent to their addresses, the rest after them."""
    out = bytearray(PAGE_LEN)
    for header in headers[1:]:
        modulus = PAGE_LEN if header.va else max(header.align, 1)
        out += bytes((header.va - len(out)) % modulus)
        header.off = len(out)
        if header.kind != SHT_NOBITS:
            out += header.data
    out += bytes(-len(out) % 4)
    section_off = len(out)
    for header in headers:
        out += SHDR.pack(
            names.offset(header.name), header.kind, header.flags, header.va, header.off,
            len(header.data), header.link, header.info, header.align, header.entry_len,
        )  # fmt: skip
    EHDR.pack_into(
        out, 0, b"\x7fELF\x01\x01\x01".ljust(16, b"\0"), ET_EXEC, EM_386, 1, entry_pa,
        EHDR.size, section_off, 0, EHDR.size, PHDR.size, len(segments), SHDR.size,
        len(headers), len(headers) - 1,
    )  # fmt: skip
    by_name = {header.name: header for header in headers}
    for i, (members, flags) in enumerate(segments):
        row = _segment([by_name[name] for name in members], flags)
        PHDR.pack_into(out, EHDR.size + i * PHDR.size, *row)
    return bytes(out)


def _segment(members: list[Header], flags: int) -> tuple[int, ...]:
    first = members[0]
    file_end = max(m.off + len(m.data) for m in members if m.kind != SHT_NOBITS)
    memory_end_va = max(m.va + len(m.data) for m in members)
    return (
        PT_LOAD, first.off, first.va, first.va - PAGE_OFFSET, file_end - first.off,
        memory_end_va - first.va, flags, PAGE_LEN,
    )  # fmt: skip

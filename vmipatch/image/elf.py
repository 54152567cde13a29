# SPDX-License-Identifier: MIT
"""What is in an i386 ELF kernel: sections, segments, symbols, and bytes by virtual address."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import lief
import numpy as np

from vmipatch.errors import MalformedImage
from vmipatch.image.symbols import SymbolTable
from vmipatch.image.types import Section, SectionFlag, SectionKind, Segment, SegmentKind

EM_386 = 3
ELF_HEADER_LEN = 52

lief.logging.disable()  # what it complains of, our own errors say


@dataclass(frozen=True)
class ElfImage:
    """A kernel file as bytes, with its headers understood.

    The bytes are never changed: whoever edits works on `bytearray(image.data)`.
    """

    name: str
    """What to call the file in messages."""
    data: bytes
    sections: tuple[Section, ...]
    segments: tuple[Segment, ...]
    entry: int
    """The ELF entry point as stored (a physical address in Linux)."""
    section_by_name: dict[str, Section] = field(repr=False)

    @classmethod
    def parse(cls, data: bytes, name: str = "<bytes>") -> ElfImage:
        """Read the headers of `data`.

        Raises MalformedImage if it is not a complete little-endian ELF32 file for i386.
        """
        binary = _parse_headers(data, name)
        sections = tuple(_section(index, s) for index, s in enumerate(binary.sections))
        segments = tuple(_segment(s) for s in binary.segments)
        for section in sections:
            if section.has_bytes and section.off + section.size > len(data):
                raise MalformedImage(
                    f"the file ends before section {section.name}",
                    file=name,
                    place=f"offset {section.off:#x}",
                    hint="the file is truncated: copy it again",
                )
        for segment in segments:
            if segment.off + segment.file_len > len(data):
                raise MalformedImage(
                    "the file ends before a program segment does",
                    file=name,
                    place=f"offset {segment.off:#x}",
                    hint="the file is truncated: copy it again",
                )
        by_name: dict[str, Section] = {}
        for section in sections:
            by_name.setdefault(section.name, section)
        return cls(name, data, sections, segments, int(binary.entrypoint), by_name)

    @property
    def executable_sections(self) -> tuple[Section, ...]:
        """Allocated sections with code, in address order."""
        return tuple(s for s in self.allocated_sections if s.is_exec and s.has_bytes and s.size)

    @cached_property
    def allocated_sections(self) -> tuple[Section, ...]:
        """Sections that occupy memory, in address order (percpu of size 0 included)."""
        return tuple(sorted((s for s in self.sections if s.is_alloc), key=lambda s: s.va))

    @property
    def loads(self) -> Iterator[Segment]:
        """The PT_LOAD segments in file order."""
        return (s for s in self.segments if s.kind is SegmentKind.LOAD)

    @cached_property
    def symbols(self) -> SymbolTable:
        """The symbol table; empty if the file is stripped."""
        table = next((s for s in self.sections if s.kind is SectionKind.SYMTAB), None)
        if table is None:
            return SymbolTable.empty()
        strings = self.section_bytes(self.sections[table.link])
        return SymbolTable.parse(self.section_bytes(table), strings, self.name)

    def section_bytes(self, section: Section) -> bytes:
        """The bytes of one section as stored in the file (empty for NOBITS)."""
        if not section.has_bytes:
            return b""
        return self.data[section.off : section.off + section.size]

    def section_at(self, va: int) -> Section | None:
        """The allocated section that holds virtual address `va`, or None."""
        return next((s for s in self.allocated_sections if s.va <= va < s.end_va), None)

    def offset_of(self, va: int) -> int:
        """File offset of `va`. Raises MalformedImage if the file holds no byte for it."""
        section = self.section_at(va)
        if section is None or not section.has_bytes:
            raise MalformedImage(
                f"address {va:#x} has no byte in the file",
                file=self.name,
                hint="a symbol or relocation points outside of the image",
            )
        return section.off + va - section.va

    def read(self, va: int, length: int) -> bytes:
        """`length` bytes at virtual address `va`. Raises MalformedImage outside the file."""
        start = self.offset_of(va)
        self.offset_of(va + length - 1 if length else va)
        return self.data[start : start + length]

    def words(self, start_va: int, end_va: int) -> np.ndarray:
        """The little-endian u32 words of [start_va, end_va), as a read-only array."""
        return np.frombuffer(self.read(start_va, end_va - start_va), dtype="<u4")


def _parse_headers(data: bytes, name: str) -> lief.ELF.Binary:
    """lief's view of the headers alone; its complaints become ours."""
    if data[:4] != b"\x7fELF":
        raise MalformedImage(
            "this is not an ELF file" if data else "the file is empty",
            file=name,
            place="offset 0x0",
            hint="give the vmlinux that a kernel build leaves, or a bzImage where one is accepted",
        )
    if data[4:6] != b"\x01\x01":
        raise MalformedImage(
            "this is not a 32-bit little-endian file",
            file=name,
            place="offset 0x4",
            hint="vmipatch works on i386 kernels only",
        )
    _require_header_tables(data, name)
    config = lief.ELF.ParserConfig()
    config.parse_relocations = False
    config.parse_symtab_symbols = False
    config.parse_dyn_symbols = False
    config.parse_symbol_versions = False
    config.parse_notes = False
    config.parse_overlay = False
    binary = lief.ELF.parse(data, config)
    if not isinstance(binary, lief.ELF.Binary):
        raise MalformedImage(
            "the ELF headers are damaged",
            file=name,
            place="offset 0x0",
            hint="the file is truncated or corrupted: copy it again",
        )
    if int(binary.header.machine_type.value) != EM_386:
        raise MalformedImage(
            f"machine type {binary.header.machine_type} is not i386",
            file=name,
            place="offset 0x12",
            hint="vmipatch works on i386 kernels only",
        )
    return binary


def _require_header_tables(data: bytes, name: str) -> None:
    """Raise MalformedImage unless both header tables lie inside the file."""
    if len(data) >= ELF_HEADER_LEN:
        phoff, shoff = struct.unpack_from("<II", data, 28)
        ph_len, ph_count, sh_len, sh_count = struct.unpack_from("<4H", data, 42)
        if max(phoff + ph_len * ph_count, shoff + sh_len * sh_count) <= len(data):
            return
    raise MalformedImage(
        "the file ends before its section headers",
        file=name,
        place=f"offset {len(data):#x}",
        hint="the file is truncated: copy it again",
    )


def _section(index: int, raw: lief.ELF.Section) -> Section:
    return Section(
        index=index,
        name=str(raw.name),
        kind=SectionKind.of(int(raw.type.value)),
        flags=SectionFlag(int(raw.flags) & SectionFlag.KNOWN),
        va=raw.virtual_address,
        off=raw.offset,
        size=raw.size,
        link=raw.link,
        info=raw.information,
        align=raw.alignment,
        entry_len=raw.entry_size,
    )


def _segment(raw: lief.ELF.Segment) -> Segment:
    return Segment(
        kind=SegmentKind.of(int(raw.type.value)),
        off=raw.file_offset,
        va=raw.virtual_address,
        pa=raw.physical_address,
        file_len=raw.physical_size,
        mem_len=raw.virtual_size,
        flags=int(raw.flags.value) if hasattr(raw.flags, "value") else int(raw.flags),
        align=raw.alignment,
    )

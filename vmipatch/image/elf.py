# SPDX-License-Identifier: MIT
"""What is in an i386 ELF kernel: sections, segments, symbols, and bytes by virtual address."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import lief
import numpy as np

from vmipatch.errors import MalformedImage, NotSupported
from vmipatch.image.among_data import may_hold_data, with_data_known
from vmipatch.image.consistency import DAMAGED, TRUNCATED, require_consistent
from vmipatch.image.symbols import STT_FUNC, SymbolTable
from vmipatch.image.types import Section, SectionFlag, SectionKind, Segment, SegmentKind, Trimmed
from vmipatch.limits import Limit

EM_386 = 3
ELF_HEADER_LEN = 52
MACHINE_AT, ENTRY_AT, PHOFF_AT, SHOFF_AT, SIZES_AT, NAMES_INDEX_AT = 18, 24, 28, 32, 42, 50
SEGMENT_HEADER_LEN, SECTION_HEADER_LEN = 32, 40

lief.logging.disable()  # what it complains of, our own errors say


@dataclass(frozen=True)
class ElfImage:
    """A kernel file as bytes, with its headers understood.

    The bytes are never changed: whoever edits works on `bytearray(image.data)`.
    """

    name: str
    """What to call the file in messages."""
    data: bytes = field(repr=False)
    sections: tuple[Section, ...] = field(repr=False)
    segments: tuple[Segment, ...] = field(repr=False)
    entry: int
    """The ELF entry point as stored (a physical address in Linux)."""
    section_by_name: dict[str, Section] = field(repr=False, hash=False)
    trimmed: Trimmed | None = None
    """Set where `data` is not the whole file."""

    @classmethod
    def parse(cls, data: bytes, name: str = "<bytes>") -> ElfImage:
        """Read the headers of `data`.

        Raises MalformedImage if it is not a complete little-endian ELF32 file for i386, or if its
        headers contradict each other.
        """
        binary = _parse_headers(data, name)
        _require_all_headers(data, len(binary.sections), len(binary.segments), name)
        sections, segments = _sections(binary, data, name), _segments(binary, data)
        _require_names(sections, data, name)
        require_consistent(sections, segments, len(data), name)
        (entry,) = struct.unpack_from("<I", data, ENTRY_AT)
        image = cls(name, data, sections, segments, entry, _by_name(sections))
        if not any(map(may_hold_data, sections)):
            return image
        known = with_data_known(sections, image.symbols)
        return replace(image, sections=known, section_by_name=_by_name(known))

    @property
    def file_sha256(self) -> str:
        """The SHA-256 of the whole file, in hexadecimal."""
        return self.trimmed.sha256 if self.trimmed else hashlib.sha256(self.data).hexdigest()

    @property
    def debug_names(self) -> tuple[str, ...]:
        """The names of the debug sections that the whole file has."""
        if self.trimmed:
            return self.trimmed.sections
        return tuple(s.name for s in self.sections if s.is_debug and s.size)

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
        data = self.section_bytes(table)
        return SymbolTable.parse(data, strings, self.name, len(self.sections))

    def functions_among_data(self) -> Iterator[tuple[int, bytes]]:
        """Address and bytes of each function in a section that holds data (see among_data)."""
        entries = self.symbols.entries
        for section in self.sections:
            if not section.holds_data:
                continue
            mine = (entries["shndx"] == section.index) & (entries["info"] & 15 == STT_FUNC)
            for va, size in entries[["value", "size"]][mine].tolist():
                if section.va <= va and va + size <= section.end_va:
                    yield va, self.read(va, size)

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
                "an address has no byte in the file",
                file=self.name,
                place=f"{va:#x}",
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


def require_magic(data: bytes, name: str) -> None:
    """Raise MalformedImage unless `data` begins as an ELF file does."""
    if data[:4] != b"\x7fELF":
        raise MalformedImage(
            "this is not an ELF file" if data else "the file is empty",
            file=name,
            place="offset 0x0",
            hint="give the vmlinux that a kernel build leaves, or a bzImage where one is accepted",
        )


def _parse_headers(data: bytes, name: str) -> lief.ELF.Binary:
    """lief's view of the headers alone; its complaints become ours."""
    require_magic(data, name)
    if data[4:6] != b"\x01\x01":
        what = "this is not a 32-bit little-endian file"
        raise NotSupported(Limit.ARCHITECTURE, what, file=name, place="offset 0x4")
    _require_header_tables(data, name)
    (machine,) = struct.unpack_from("<H", data, MACHINE_AT)
    if machine != EM_386:
        what = f"machine type {machine} is not i386"
        raise NotSupported(Limit.ARCHITECTURE, what, file=name, place=f"offset {MACHINE_AT:#x}")
    config = lief.ELF.ParserConfig()
    config.parse_relocations = False
    config.parse_symtab_symbols = False
    config.parse_dyn_symbols = False
    config.parse_symbol_versions = False
    config.parse_notes = False
    config.parse_overlay = False
    binary = lief.ELF.parse(_headers_alone(data), config)
    if not isinstance(binary, lief.ELF.Binary):
        raise MalformedImage(
            "the ELF headers are damaged", file=name, place="offset 0x0", hint=DAMAGED
        )
    return binary


def _by_name(sections: Sequence[Section]) -> dict[str, Section]:
    """The first section of each name."""
    result: dict[str, Section] = {}
    for section in sections:
        result.setdefault(section.name, section)
    return result


def _headers_alone(data: bytes) -> bytes:
    """A file of the header tables and the names of sections: lief copies all that it is given."""
    phoff, shoff = struct.unpack_from("<2I", data, PHOFF_AT)
    _, segments, _, sections, names_index = struct.unpack_from("<5H", data, SIZES_AT)
    segments_end = ELF_HEADER_LEN + SEGMENT_HEADER_LEN * segments
    result = bytearray(data[:ELF_HEADER_LEN])
    struct.pack_into("<2I", result, PHOFF_AT, ELF_HEADER_LEN, segments_end)
    result += data[phoff : phoff + SEGMENT_HEADER_LEN * segments]
    result += data[shoff : shoff + SECTION_HEADER_LEN * sections]
    if names_index < sections:
        at = segments_end + SECTION_HEADER_LEN * names_index + 16
        names_off, names_len = struct.unpack_from("<2I", result, at)
        struct.pack_into("<I", result, at, len(result))
        result += data[names_off : names_off + names_len]
    return bytes(result)


def _require_header_tables(data: bytes, name: str) -> None:
    """Raise MalformedImage unless both header tables lie inside the file."""
    if len(data) < ELF_HEADER_LEN:
        raise _cut_off(data, name)
    phoff, shoff = struct.unpack_from("<II", data, PHOFF_AT)
    ph_len, ph_count, sh_len, sh_count = struct.unpack_from("<4H", data, SIZES_AT)
    if max(phoff + ph_len * ph_count, shoff + sh_len * sh_count) > len(data):
        raise _cut_off(data, name)
    if (ph_count and ph_len != SEGMENT_HEADER_LEN) or (sh_count and sh_len != SECTION_HEADER_LEN):
        raise MalformedImage(
            f"headers of {ph_len} and {sh_len} bytes are not those of a 32-bit file",
            file=name,
            place=f"offset {SIZES_AT:#x}",
            hint=DAMAGED,
        )


def _cut_off(data: bytes, name: str) -> MalformedImage:
    return MalformedImage(
        "the file ends before its section headers",
        file=name,
        place=f"offset {len(data):#x}",
        hint=TRUNCATED,
    )


def _require_all_headers(data: bytes, sections: int, segments: int, name: str) -> None:
    """Raise MalformedImage unless lief understood as many headers as the file announces."""
    _, ph_count, _, sh_count, names = struct.unpack_from("<5H", data, SIZES_AT)
    if (segments, sections) != (ph_count, sh_count) or (sections and names >= sections):
        raise MalformedImage(
            f"{ph_count} segments and {sh_count} sections are announced, "
            f"{segments} and {sections} understood",
            file=name,
            place=f"offset {SIZES_AT:#x}",
            hint=DAMAGED,
        )


def _require_names(sections: tuple[Section, ...], data: bytes, name: str) -> None:
    """Raise MalformedImage unless the names of sections are strings that are not loaded."""
    (names,) = struct.unpack_from("<H", data, SIZES_AT + 8)
    if not sections or not names:
        return
    complaint = None
    if sections[names].kind is not SectionKind.STRTAB:
        complaint = "the names of sections stand in a section that has no strings"
    elif sections[names].is_alloc:
        complaint = "the names of sections stand in a section that is loaded"
    if complaint is not None:
        raise MalformedImage(
            complaint,
            file=name,
            place=f"section {names}",
            hint=DAMAGED,
        )


def _sections(binary: lief.ELF.Binary, data: bytes, file: str) -> tuple[Section, ...]:
    """The section headers; type and flags as stored, for lief's enumerations are not complete.

    Raises MalformedImage if a name is not in the table of names.
    """
    # The offset as stored, too: lief was given the names of sections elsewhere.
    (shoff,) = struct.unpack_from("<I", data, SHOFF_AT)
    heads = [
        struct.unpack_from("<III4xI", data, shoff + index * SECTION_HEADER_LEN)
        for index in range(len(binary.sections))
    ]
    (names_index,) = struct.unpack_from("<H", data, NAMES_INDEX_AT)
    names_len = binary.sections[names_index].size if heads else 0
    for index, (name_off, *_) in enumerate(heads):
        if name_off and name_off >= names_len:
            raise MalformedImage(
                "the name of a section lies outside of the table of names",
                file=file,
                place=f"section {index}",
                hint=DAMAGED,
            )
    return tuple(
        _section(index, raw, *head)
        for index, (raw, (_, *head)) in enumerate(zip(binary.sections, heads, strict=True))
    )


def _section(index: int, raw: lief.ELF.Section, kind: int, flags: int, off: int) -> Section:
    return Section(
        index=index,
        name=str(raw.name),
        kind=SectionKind.of(kind),
        flags=SectionFlag(flags & SectionFlag.KNOWN),
        va=raw.virtual_address,
        off=off,
        size=raw.size,
        link=raw.link,
        info=raw.information,
        align=raw.alignment,
        entry_len=raw.entry_size,
    )


def _segments(binary: lief.ELF.Binary, data: bytes) -> tuple[Segment, ...]:
    """The program headers; their type and flags as stored, too."""
    (phoff,) = struct.unpack_from("<I", data, PHOFF_AT)
    heads = range(phoff, phoff + SEGMENT_HEADER_LEN * len(binary.segments), SEGMENT_HEADER_LEN)
    return tuple(
        _segment(raw, *struct.unpack_from("<I20xI", data, at))
        for raw, at in zip(binary.segments, heads, strict=True)
    )


def _segment(raw: lief.ELF.Segment, kind: int, flags: int) -> Segment:
    return Segment(
        kind=SegmentKind.of(kind),
        off=raw.file_offset,
        va=raw.virtual_address,
        pa=raw.physical_address,
        file_len=raw.physical_size,
        mem_len=raw.virtual_size,
        flags=flags,
        align=raw.alignment,
    )

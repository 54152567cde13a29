# SPDX-License-Identifier: MIT
"""What is in an i386 ELF kernel? Sections, segments, symbols, and bytes by virtual address."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from vmipatch.errors import MalformedImage, NotSupported
from vmipatch.image.among_data import may_hold_data, with_data_known
from vmipatch.image.consistency import DAMAGED, TRUNCATED, require_consistent
from vmipatch.image.symbols import STT_FUNC, SymbolTable
from vmipatch.image.types import Section, SectionFlag, SectionKind, Segment, SegmentKind, Trimmed
from vmipatch.limits import Limit

ELF_MAGIC = b"\x7fELF"
EM_386 = 3
ELF_HEADER_LEN = 52
MACHINE_AT, ENTRY_AT, PHOFF_AT, SHOFF_AT, SIZES_AT, NAMES_INDEX_AT = 18, 24, 28, 32, 42, 50
SEGMENT_HEADER_LEN, SECTION_HEADER_LEN = 32, 40
KIND_AT, ET_REL = 16, 1
MOST_OF_A_KERNEL, MOST_OF_A_MODULE = 512, 16384
"""Sections at most. Linux's linker scripts make 60, 120 with relocations; a module may have one for
each function."""
MAX_NAMES_LEN = 8 << 20
"""Bytes of the names of all sections: 65,535 with 128 each, as -ffunction-sections gives them."""

_SEGMENT = struct.Struct("<8I")
_SECTION = struct.Struct("<10I")
"""Elf32_Phdr and Elf32_Shdr (System V ABI, chapters 4 and 5)."""
assert (_SEGMENT.size, _SECTION.size) == (SEGMENT_HEADER_LEN, SECTION_HEADER_LEN)


@dataclass(frozen=True)
class ElfImage:
    """A kernel file as bytes, with its headers understood.

    The bytes are never changed: an editor works on `bytearray(image.data)`.
    """

    name: str
    """The file's name in messages."""
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
        _require_headers(data, name)
        sections, segments = _sections(data, name), _segments(data)
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
    def page_offset(self) -> int:
        """Virtual minus physical address of .text, or of the first segment (PAGE_OFFSET in Linux).

        Code that is entered before paging may have a segment of its own at physical addresses.
        """
        loads, text = list(self.loads), self.section_by_name.get(".text")
        held = (s for s in loads if text is not None and s.va <= text.va < s.va + s.mem_len)
        load = next(held, loads[0] if loads else None)
        return load.va - load.pa if load else 0

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
        if length > 1:
            self.offset_of(va + length - 1)
        return self.data[start : start + length]

    def words(self, start_va: int, end_va: int) -> np.ndarray:
        """The little-endian u32 words of [start_va, end_va), as a read-only array."""
        return np.frombuffer(self.read(start_va, end_va - start_va), dtype="<u4")


def require_magic(data: bytes, name: str) -> None:
    """Raise MalformedImage unless `data` begins as an ELF file does."""
    if not data.startswith(ELF_MAGIC):
        raise MalformedImage(
            "this is not an ELF file" if data else "the file is empty",
            file=name,
            place="offset 0x0",
            hint="give the vmlinux that a kernel build leaves, or a bzImage where one is accepted",
        )


def _require_headers(data: bytes, name: str) -> None:
    """Raise MalformedImage, or NotSupported, unless these are headers of an i386 file."""
    require_magic(data, name)
    if data[4:6] != b"\x01\x01":
        what = "this is not a 32-bit little-endian file"
        raise NotSupported(Limit.ARCHITECTURE, what, file=name, place="offset 0x4")
    _require_header_tables(data, name)
    (machine,) = struct.unpack_from("<H", data, MACHINE_AT)
    if machine != EM_386:
        what = f"machine type {machine} is not i386"
        raise NotSupported(Limit.ARCHITECTURE, what, file=name, place=f"offset {MACHINE_AT:#x}")
    _require_few_sections(data, name)
    _require_short_names(data, name)
    sections, names = struct.unpack_from("<2H", data, NAMES_INDEX_AT - 2)
    if sections and names >= sections:
        raise MalformedImage(
            f"the names of sections stand in section {names} of {sections}",
            file=name,
            place=f"offset {NAMES_INDEX_AT:#x}",
            hint=DAMAGED,
        )


def _by_name(sections: Sequence[Section]) -> dict[str, Section]:
    """The first section of each name."""
    result: dict[str, Section] = {}
    for section in sections:
        result.setdefault(section.name, section)
    return result


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


def _require_few_sections(data: bytes, name: str) -> None:
    """Raise NotSupported for more sections than linkers make: time grows with their square."""
    (kind,) = struct.unpack_from("<H", data, KIND_AT)
    (count,) = struct.unpack_from("<H", data, NAMES_INDEX_AT - 2)
    if count > (MOST_OF_A_MODULE if kind == ET_REL else MOST_OF_A_KERNEL):
        what = f"the file has {count} sections"
        raise NotSupported(Limit.MANY_SECTIONS, what, file=name, place="section headers")


def _require_short_names(data: bytes, name: str) -> None:
    """Raise MalformedImage if the names of sections are longer, all together, than any linker's.

    Names may be ends of others: thousands of headers can share one of a megabyte.
    """
    (shoff,) = struct.unpack_from("<I", data, SHOFF_AT)
    count, index = struct.unpack_from("<HH", data, NAMES_INDEX_AT - 2)
    if index >= count:
        return
    heads = np.frombuffer(data, np.dtype("<10u4"), count, shoff)
    names_off, names_len = heads[index, 4:6].tolist()
    starts = heads[:, 0].astype(np.int64)
    table = np.frombuffer(data[names_off : names_off + names_len], np.uint8)
    ends = np.append(np.flatnonzero(table == 0), max(len(table), int(starts.max())))
    length = int((ends[np.searchsorted(ends, starts)] - starts).sum())
    if length > MAX_NAMES_LEN:
        raise MalformedImage(
            f"the names of {count} sections have {length} bytes together",
            file=name,
            place=f"section {index}",
            hint=DAMAGED,
        )


def _cut_off(data: bytes, name: str) -> MalformedImage:
    return MalformedImage(
        "the file ends before its section headers",
        file=name,
        place=f"offset {len(data):#x}",
        hint=TRUNCATED,
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


def _sections(data: bytes, file: str) -> tuple[Section, ...]:
    """The section headers. Raises MalformedImage if a name is not in the table of names."""
    heads = _headers(_SECTION, data, SHOFF_AT, NAMES_INDEX_AT - 2)
    names, names_len = b"", 0
    if heads:
        (names_index,) = struct.unpack_from("<H", data, NAMES_INDEX_AT)
        off, names_len = heads[names_index][4:6]
        names = data[off : off + names_len]
    for index, (name_off, *_) in enumerate(heads):
        if name_off and name_off >= names_len:
            raise MalformedImage(
                "the name of a section lies outside of the table of names",
                file=file,
                place=f"section {index}",
                hint=DAMAGED,
            )
    return tuple(_section(index, names, head) for index, head in enumerate(heads))


def _section(index: int, names: bytes, head: tuple[int, ...]) -> Section:
    name_off, kind, flags, va, off, size, link, info, align, entry_len = head
    return Section(
        index=index,
        name=names[name_off:].partition(b"\0")[0].decode(errors="backslashreplace"),
        kind=SectionKind.of(kind),
        flags=SectionFlag(flags & SectionFlag.KNOWN),
        va=va,
        off=off,
        size=size,
        link=link,
        info=info,
        align=align,
        entry_len=entry_len,
    )


def _segments(data: bytes) -> tuple[Segment, ...]:
    """The program headers."""
    heads = _headers(_SEGMENT, data, PHOFF_AT, SIZES_AT + 2)
    return tuple(
        Segment(SegmentKind.of(kind), off, va, pa, file_len, mem_len, flags, align)
        for kind, off, va, pa, file_len, mem_len, flags, align in heads
    )


def _headers(form: struct.Struct, data: bytes, off_at: int, count_at: int) -> list[tuple[int, ...]]:
    """A table of headers, whose offset and number are at these places of the ELF header."""
    (off,) = struct.unpack_from("<I", data, off_at)
    (count,) = struct.unpack_from("<H", data, count_at)
    return list(form.iter_unpack(data[off : off + form.size * count]))

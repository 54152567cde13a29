# SPDX-License-Identifier: MIT
"""Do the headers of an ELF file agree with each other and with what an i386 kernel can be?

Everything after the reader counts on what is asked here, so that a damaged file is refused once
and by name, and not where its damage happens to hurt.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NoReturn

from vmipatch.errors import MalformedImage
from vmipatch.image.types import Section, SectionKind, Segment, SegmentKind

ADDRESS_SPACE_LEN = 1 << 32
MAX_ALIGN = 0x200000
"""The greatest alignment that Linux asks for on x86: a large page of PAE."""
ENTRY_LEN = {SectionKind.SYMTAB: 16, SectionKind.REL: 8}
"""Bytes of one entry of the tables that are read (System V ABI, chapter 4)."""

MOST_SHARED = 2
"""How many sections may have a byte of the file, on average. Some old tools keep headers that cover
others; linkers give each byte to one."""

DAMAGED = "the headers of the file are damaged: build or copy it again"
TRUNCATED = "the file is truncated: copy it again"


def require_consistent(
    sections: Sequence[Section], segments: Sequence[Segment], data_len: int, file: str
) -> None:
    """Raise MalformedImage unless all headers make sense together.

    `data_len` is the length of the file in bytes.
    """
    headers = _Headers(sections, segments, data_len, file)
    for segment in segments:
        headers.require_segment(segment)
    headers.require_apart()
    for section in sections:
        headers.require_section(section)
    headers.require_little_shared()


def is_emptied(section: Section) -> bool:
    """Whether `section` holds no relocations any more, whatever its other fields say.

    `objcopy -S` of binutils up to 2.22 leaves the headers of .rel sections, with no bytes
    and no symbol table (sh_link 0): seen in the bzImages of Linux 2.6.26 to 3.2.
    """
    return section.kind is SectionKind.REL and not section.size


def require_own_bytes(sections: Sequence[Section], file: str) -> None:
    """Raise MalformedImage if a byte of the file belongs to two sections: no linker does that."""
    stored = [(s.off, s.size, s.index, s) for s in sections if s.has_bytes and s.size]
    _require_apart(sorted(stored), "bytes", file)


def require_own_memory(sections: Sequence[Section], file: str) -> None:
    """Raise MalformedImage if two sections of a linked file share memory.

    An empty one is not inside of another either.
    """
    loaded = [(s.va, s.size, s.index, s) for s in sections if s.is_alloc]
    _require_apart(sorted(loaded), "memory", file)


def require_loaded_allocated(
    sections: Sequence[Section], segments: Sequence[Segment], file: str
) -> None:
    """Raise MalformedImage if a segment loads bytes of a section that is not allocated.

    The words in it would not be corrected.
    """
    loads = [s for s in segments if s.kind is SegmentKind.LOAD]
    for section in sections:
        if section.is_alloc or not section.has_bytes or not section.size:
            continue
        end_off = section.off + section.size
        if any(section.off < s.off + s.file_len and s.off < end_off for s in loads):
            raise MalformedImage(
                "a program segment loads this section, which is not allocated",
                file=file,
                place=f"section {section.index} ({section.name})",
                hint=DAMAGED,
            )


def _require_apart(places: Sequence[tuple[int, int, int, Section]], what: str, file: str) -> None:
    """Of sections in the order of where each begins, none reaches into the next."""
    for (start, size, _, section), (next_start, _, _, following) in pairwise(places):
        if next_start < start + size:
            raise MalformedImage(
                f"it shares {what} with section {section.name}",
                file=file,
                place=f"section {following.index} ({following.name})",
                hint=DAMAGED,
            )


class _Headers:
    """All headers of one file, and how to complain of one."""

    def __init__(
        self, sections: Sequence[Section], segments: Sequence[Segment], data_len: int, file: str
    ) -> None:
        self._sections = sections
        self._names = {s.name for s in sections if s.name}
        self._loads = [s for s in segments if s.kind is SegmentKind.LOAD]
        self._data_len, self._file = data_len, file

    def require_segment(self, segment: Segment) -> None:
        """It lies in the file, and in the address space if it is loaded."""
        place = f"segment at offset {segment.off:#x}"
        if segment.off + segment.file_len > self._data_len:
            self._refuse("the file ends before a program segment does", place, TRUNCATED)
        if segment.kind is not SegmentKind.LOAD:
            return
        if segment.file_len > segment.mem_len:
            self._refuse("a segment is longer in the file than in memory", place)
        if max(segment.va, segment.pa) + segment.mem_len > ADDRESS_SPACE_LEN:
            self._refuse("a program segment ends beyond the last address of 32 bits", place)
        self._require_align(segment.align, place)

    def require_apart(self) -> None:
        """No two loaded segments share memory."""
        loads = [s for s in self._loads if s.mem_len]
        for ranges in (
            [(s.va, s.va + s.mem_len) for s in loads],
            [(s.pa, s.pa + s.mem_len) for s in loads],
        ):
            for (_, end), (following, _) in pairwise(sorted(ranges)):
                if end > following:
                    self._refuse("two program segments overlap", f"address {following:#x}")

    def require_little_shared(self) -> None:
        """Sections do not have the same bytes of the file again and again.

        Each would be read, decoded and listed: hours of work that a small file asks for.
        """
        stored = sum(s.size for s in self._sections if s.has_bytes)
        if stored > MOST_SHARED * self._data_len:
            what = f"the sections have {stored} bytes, the file {self._data_len}"
            self._refuse(f"{what}: they share them", "section headers")

    def require_section(self, section: Section) -> None:
        """Its bytes, its alignment and whatever it refers to exist."""
        place = f"section {section.index} ({section.name})"
        if section.has_bytes and section.off + section.size > self._data_len:
            self._refuse(
                f"the file ends before section {section.name}",
                f"offset {section.off:#x}",
                TRUNCATED,
            )
        self._require_align(section.align, place)
        self._require_entries(section, place)
        self._require_name_of_relocations(section, place)
        if section.is_alloc and section.end_va > ADDRESS_SPACE_LEN:
            self._refuse("the section ends beyond the last address of 32 bits", place)

    def _require_align(self, align: int, place: str) -> None:
        if align & (align - 1) or align > MAX_ALIGN:
            self._refuse(f"{align:#x} is not an alignment that a kernel has", place)

    def _require_entries(self, section: Section, place: str) -> None:
        entry_len = ENTRY_LEN.get(section.kind)
        if entry_len is None:
            return
        if section.size % entry_len:
            self._refuse(f"{section.size} bytes are no whole entries of {entry_len}", place)
        is_rel = section.kind is SectionKind.REL
        if is_rel and section.info >= len(self._sections):
            self._refuse(f"it applies to section {section.info}, which does not exist", place)
        if is_emptied(section):
            return
        linked_kind = SectionKind.STRTAB
        if is_rel:
            if not self._sections[section.info].is_alloc:
                return
            linked_kind = SectionKind.SYMTAB
        linked = self._sections[section.link] if section.link < len(self._sections) else None
        if linked is None or linked.kind is not linked_kind:
            self._refuse(f"section {section.link} is not a {linked_kind.name} to go with it", place)

    def _require_name_of_relocations(self, section: Section, place: str) -> None:
        """A section named after relocations of another holds these: none may get lost."""
        name = section.name.removeprefix(".rel")
        if name == section.name or name not in self._names:
            return
        if is_emptied(section):
            return
        if section.kind is not SectionKind.REL or self._sections[section.info].name != name:
            self._refuse(f"it does not hold the relocations of {name}", place)

    def _refuse(self, message: str, place: str, hint: str = DAMAGED) -> NoReturn:
        raise MalformedImage(message, file=self._file, place=place, hint=hint)

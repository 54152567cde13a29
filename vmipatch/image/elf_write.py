# SPDX-License-Identifier: MIT
"""How an ELF kernel is put together again from sections, segments and the bytes between them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from vmipatch.errors import MalformedImage
from vmipatch.image.elf import ElfImage
from vmipatch.image.types import Section, SectionKind, Segment

_HEADER_LEN = 52
_SECTION_HEADER = struct.Struct("<10I")
_SEGMENT_HEADER = struct.Struct("<8I")
_PHOFF_AT, _SHOFF_AT, _PHNUM_AT, _SHNUM_AT, _SHSTRNDX_AT = 28, 32, 44, 48, 50


@dataclass(frozen=True, slots=True)
class Content:
    """A section and the bytes it holds (empty where the file holds none)."""

    section: Section
    data: bytes = field(repr=False)


def write_elf(
    original: ElfImage, memory: bytes, contents: Sequence[Content], segments: Sequence[Segment]
) -> bytes:
    """An ELF file with the header of `original`, whose sections `contents` may leave out.

    `memory` is the front of the file up to the end of its last loaded byte; allocated sections of
    `contents` are written over it at their `off`. The others follow in their order, then the
    section headers. Raises MalformedImage if the program headers do not fit where they stand.
    """
    file = bytearray(memory)
    _write_segments(file, original, contents, segments)
    placed: list[Section] = []
    names, name_off = _name_table([c.section.name for c in contents])
    for content in contents:
        section, data = content.section, content.data
        if holds_names(original, section):
            data = names
        if section.is_alloc:
            if section.has_bytes:
                file[section.off : section.off + len(data)] = data
        elif section.kind is not SectionKind.NULL:
            _pad(file, section.align)
            section = replace(section, off=len(file), size=len(data))
            file += data
        placed.append(section)
    _pad(file, 4)
    struct.pack_into("<I", file, _SHOFF_AT, len(file))
    struct.pack_into("<H", file, _SHNUM_AT, len(placed))
    for position, section in enumerate(placed):
        if holds_names(original, section):
            struct.pack_into("<H", file, _SHSTRNDX_AT, position)
    raw_types = _raw_section_words(original)
    for section in placed:
        file += _section_header(section, name_off[section.name], raw_types)
    return bytes(file)


def _write_segments(
    file: bytearray,
    original: ElfImage,
    contents: Sequence[Content],
    segments: Sequence[Segment],
) -> None:
    (phoff,) = struct.unpack_from("<I", original.data, _PHOFF_AT)
    first = min(c.section.off for c in contents if c.section.is_alloc and c.section.size)
    if phoff + len(segments) * _SEGMENT_HEADER.size > first:
        raise MalformedImage(
            "there is no room for another program header",
            file=original.name,
            place=f"offset {phoff:#x}",
            hint="link the kernel with its first section at a page boundary of the file",
        )
    struct.pack_into("<H", file, _PHNUM_AT, len(segments))
    kinds = _raw_segment_kinds(original, phoff)
    for index, s in enumerate(segments):
        kind = kinds[index] if index < len(kinds) else int(s.kind)
        _SEGMENT_HEADER.pack_into(
            file,
            phoff + index * _SEGMENT_HEADER.size,
            kind, s.off, s.va, s.pa, s.file_len, s.mem_len, s.flags, s.align,
        )  # fmt: skip


def _raw_segment_kinds(original: ElfImage, phoff: int) -> list[int]:
    """p_type of every segment as stored: kinds we do not know are kept."""
    size = _SEGMENT_HEADER.size
    return [
        int.from_bytes(original.data[phoff + size * i : phoff + size * i + 4], "little")
        for i in range(len(original.segments))
    ]


def _raw_section_words(original: ElfImage) -> list[tuple[int, int]]:
    """sh_type and sh_flags of every section as stored."""
    (shoff,) = struct.unpack_from("<I", original.data, _SHOFF_AT)
    return [
        _SECTION_HEADER.unpack_from(original.data, shoff + i * _SECTION_HEADER.size)[1:3]
        for i in range(len(original.sections))
    ]


def _section_header(section: Section, name_off: int, raw: list[tuple[int, int]]) -> bytes:
    kind, flags = int(section.kind), int(section.flags)
    if section.index < len(raw):
        kind, flags = raw[section.index]
    return _SECTION_HEADER.pack(
        name_off, kind, flags, section.va, section.off, section.size,
        section.link, section.info, section.align, section.entry_len,
    )  # fmt: skip


def holds_names(original: ElfImage, section: Section) -> bool:
    """Whether `section`, with the index it has in `original`, holds the names of the sections."""
    return section.index == int.from_bytes(original.data[_SHSTRNDX_AT:_HEADER_LEN], "little")


def _name_table(names: Sequence[str]) -> tuple[bytes, dict[str, int]]:
    table, at = bytearray(b"\0"), {"": 0}
    for name in names:
        if name not in at:
            at[name] = len(table)
            table += name.encode() + b"\0"
    return bytes(table), at


def _pad(file: bytearray, align: int) -> None:
    file += bytes(-len(file) % max(align, 1))

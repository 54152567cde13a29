# SPDX-License-Identifier: MIT
"""Which file must the boot code unpack? The proven kernel as `objcopy -S` leaves it, and the list.

| part | what is in it |
| --- | --- |
| up to the end of what is loaded | the proven kernel; zeros for what the build leaves out |
| .vmi.manifest, .vmi.restore, .shstrtab | one after the other, in the order of their numbers |
| section headers | of these and of all that is loaded, from a multiple of 4; no links |
| zeros | as far as boot code would write over the list before it reads it |
| relocation list | a 0 word and the addresses of all words that move with the kernel, rising |

Source: arch/x86/boot/compressed/{Makefile,misc.c} of Linux (vmlinux.bin, parse_elf and
handle_relocations); System V ABI, chapter 4.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence

import numpy as np

from vmipatch.image.elf import ElfImage
from vmipatch.image.types import Section, SectionKind, Segment
from vmipatch.restore import SECTION as NOTE
from vmipatch.verify.static.manifest import SECTION as MANIFEST

NEVER_LOADED = (MANIFEST, NOTE)
"""Sections that are kept though no segment loads them."""
_SHOFF_AT, _COUNTS_AT = 32, 48
_HEADER = struct.Struct("<10I")
_WORD_LEN = 4


def expected_elf(proven: ElfImage, unpacked: Collection[str], note: bytes = b"") -> bytes:
    """The ELF file in the payload, made from the `proven` kernel.

    `unpacked` names loaded sections that the build of the original left out, `note` is the content
    of .vmi.restore, which then stands at the end of the file.
    """
    (shoff,) = struct.unpack_from("<I", proven.data, _SHOFF_AT)
    _, names_index = struct.unpack_from("<HH", proven.data, _COUNTS_AT)
    kept = [s for s in proven.sections if _is_kept(s, unpacked, names_index)]
    file = bytearray(proven.data[: max(s.off + s.file_len for s in proven.loads)])
    for name in unpacked:
        section = proven.section_by_name[name]
        file[section.off : section.off + section.size] = bytes(section.size)
    names, name_at = _names(kept)
    rows = []
    for section in kept:
        row = list(_HEADER.unpack_from(proven.data, shoff + section.index * _HEADER.size))
        row[0], row[6], row[7] = name_at[section.name], 0, 0
        if not section.is_alloc and section.kind is not SectionKind.NULL:
            is_names = section.index == names_index
            content = names if is_names else proven.section_bytes(section)
            file += bytes(-len(file) % max(section.align, 1))
            row[4], row[5] = len(file), len(content)
            file += content
        rows.append(_HEADER.pack(*row))
    file += bytes(-len(file) % _WORD_LEN)
    struct.pack_into("<I", file, _SHOFF_AT, len(file))
    position = [s.index for s in kept].index(names_index)
    struct.pack_into("<HH", file, _COUNTS_AT, len(kept), position)
    end = len(file) + _HEADER.size * len(rows)
    if note:
        last = next(i for i, s in enumerate(kept) if s.name == NEVER_LOADED[1])
        row = list(_HEADER.unpack(rows[last]))
        row[4], row[5] = end, len(note)
        rows[last] = _HEADER.pack(*row)
    return bytes(file) + b"".join(rows) + note


def expected_payload(elf: bytes, relocs: Sequence[int] | None, link_pa: int) -> bytes:
    """`elf` and its relocation list, if it has one, where boot code reads it.

    `link_pa` is what the boot code takes for the address of the first byte.
    """
    if relocs is None:
        return elf
    loads = sorted(ElfImage.parse(elf).loads, key=lambda s: s.pa)
    list_len = _WORD_LEN * (1 + len(relocs))
    place = _aligned(len(elf))
    for segment in loads:
        start_off, end_off = _target(segment, link_pa)
        if start_off < place + list_len and place < end_off:
            place = _aligned(end_off)
    return elf.ljust(place, b"\0") + np.array([0, *sorted(relocs)], "<u4").tobytes()


def overwritten(elf: bytes, link_pa: int) -> int | None:
    """The address of a segment that is written over before it is moved; None if no one is."""
    loads = list(ElfImage.parse(elf).loads)
    for index, segment in enumerate(loads):
        start_off, end_off = _target(segment, link_pa)
        for later in loads[index + 1 :]:
            if start_off < later.off + later.file_len and later.off < end_off:
                return later.va
    return None


def _target(segment: Segment, link_pa: int) -> tuple[int, int]:
    """Where the boot code moves a segment, as offsets from the start of the unpacked payload."""
    start = segment.pa - link_pa
    return start, start + segment.file_len


def _is_kept(section: Section, unpacked: Collection[str], names_index: int) -> bool:
    if section.is_alloc:
        return section.name not in unpacked
    is_own = section.name in NEVER_LOADED
    return is_own or section.kind is SectionKind.NULL or section.index == names_index


def _names(sections: Sequence[Section]) -> tuple[bytes, dict[str, int]]:
    """The string table, and where in it each name begins; each name is there once."""
    table, at = bytearray(b"\0"), {"": 0}
    for section in sections:
        if section.name not in at:
            at[section.name] = len(table)
            table += section.name.encode() + b"\0"
    return bytes(table), at


def _aligned(length: int) -> int:
    return -(-length // _WORD_LEN) * _WORD_LEN

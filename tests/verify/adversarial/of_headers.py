# SPDX-License-Identifier: MIT
"""Changes of ELF header, program headers and section headers: each field, each header."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

from tests.verify.adversarial.kinds import NotHere, Target, kind, other_byte, other_value
from tests.verify.adversarial.raw import PHOFF_AT, SEGMENT, renumber, segments, set_segments
from tests.verify.edit import ADDR, FLAGS, INFO, NAME, NOBITS, OFFSET, PROGBITS, SIZE, FileEdit
from vmipatch.image.elf import ElfImage

IDENT_LEN = 16
FIELDS = {
    "e_type": (16, 2), "e_machine": (18, 2), "e_version": (20, 4), "e_entry": (24, 4),
    "e_phoff": (28, 4), "e_shoff": (32, 4), "e_flags": (36, 4), "e_ehsize": (40, 2),
    "e_phentsize": (42, 2), "e_phnum": (44, 2), "e_shentsize": (46, 2), "e_shnum": (48, 2),
    "e_shstrndx": (50, 2),
}  # fmt: skip
"""Offset and bytes of each field of Elf32_Ehdr after e_ident."""
OF_SEGMENT = ("p_type", "p_offset", "p_vaddr", "p_paddr", "p_filesz", "p_memsz", "p_flags",
              "p_align")  # fmt: skip
OF_SECTION = ("sh_name", "sh_type", "sh_flags", "sh_addr", "sh_offset", "sh_size", "sh_link",
              "sh_info", "sh_addralign", "sh_entsize")  # fmt: skip
P_OFFSET, P_VADDR, P_FILESZ, P_MEMSZ, P_FLAGS = 1, 2, 4, 5, 6
LOAD, NULL, NOTE, STACK, INTERP, DYNAMIC, TLS = 1, 0, 4, 0x6474E551, 3, 2, 7


def _every_segment(image: ElfImage) -> Sequence[Target]:
    return [(i,) for i in range(len(image.segments))]


def _every_section(image: ElfImage) -> Sequence[Target]:
    return [(i,) for i in range(1, len(image.sections))]


def _pairs_of_sections(image: ElfImage) -> Sequence[Target]:
    return [(i, i + 1) for i in range(1, len(image.sections) - 1)]


def _pairs_of_segments(image: ElfImage) -> Sequence[Target]:
    return [(i, i + 1) for i in range(len(image.segments) - 1)]


@kind("ELF header: e_ident", lambda _: [(i,) for i in range(IDENT_LEN)])
def ident(edit: FileEdit, dice: random.Random, target: tuple[int]) -> str:
    (at,) = target
    edit.data[at] = other_byte(edit.data[at], dice)
    return f"byte {at} is {edit.data[at]:#x}"


@kind("ELF header: field", lambda _: [(name,) for name in FIELDS], weight=3)
def file_field(edit: FileEdit, dice: random.Random, target: tuple[str]) -> str:
    (name,) = target
    at, width = FIELDS[name]
    old = int.from_bytes(edit.data[at : at + width], "little")
    value = other_value(old, dice, width)
    edit.data[at : at + width] = value.to_bytes(width, "little")
    return f"{name} is {value:#x}"


@kind(
    "program header: field",
    lambda image: [(i, c) for i in range(len(image.segments)) for c in range(len(OF_SEGMENT))],
)
def segment_field(edit: FileEdit, dice: random.Random, target: tuple[int, int]) -> str:
    index, column = target
    rows = segments(edit)
    rows[index][column] = value = other_value(rows[index][column], dice)
    set_segments(edit, rows)
    return f"{OF_SEGMENT[column]} of segment {index} is {value:#x}"


@kind("segment: added", lambda _: [(t,) for t in (LOAD, NULL, NOTE, STACK, INTERP, DYNAMIC, TLS)])
def segment_added(edit: FileEdit, dice: random.Random, target: tuple[int]) -> str:
    (number,) = target
    rows = segments(edit)
    if not rows:
        raise NotHere
    row = list(dice.choice(rows))
    row[0] = number
    if number == LOAD:
        free_va = -(-max(r[P_VADDR] + r[P_MEMSZ] for r in rows) // 0x1000) * 0x1000
        row[P_VADDR], row[3], row[P_FLAGS] = free_va, free_va - rows[0][P_VADDR] + rows[0][3], 7
    rows.insert(dice.randrange(len(rows) + 1), row)
    moved = dice.random() < 0.5
    set_segments(edit, rows, moved=moved)
    return f"type {number:#x}, headers {'at the end' if moved else 'in place'}"


@kind("segment: removed", _every_segment)
def segment_removed(edit: FileEdit, dice: random.Random, target: tuple[int]) -> str:
    rows = segments(edit)
    (index,) = target
    del rows[index]
    set_segments(edit, rows)
    if dice.random() < 0.5:
        (off,) = struct.unpack_from("<I", edit.data, PHOFF_AT)
        at = off + SEGMENT.size * len(rows)
        edit.data[at : at + SEGMENT.size] = bytes(SEGMENT.size)
    return f"segment {index}"


@kind("segment: reordered", _pairs_of_segments)
def segments_reordered(edit: FileEdit, dice: random.Random, target: tuple[int, int]) -> str:
    rows = segments(edit)
    low, high = target
    rows[low], rows[high] = rows[high], rows[low]
    set_segments(edit, rows)
    return f"segments {low} and {high}"


@kind("segment: resized", _every_segment, weight=2)
def segment_resized(edit: FileEdit, dice: random.Random, target: tuple[int]) -> str:
    rows = segments(edit)
    (index,) = target
    by = dice.choice((-0x1000, -4, 4, 0x1000))
    rows[index][P_FILESZ] = max(rows[index][P_FILESZ] + by, 0)
    rows[index][P_MEMSZ] = max(rows[index][P_MEMSZ] + by, 0)
    set_segments(edit, rows)
    return f"segment {index} by {by}"


@kind("program headers: moved", lambda _: [()])
def headers_moved(edit: FileEdit, dice: random.Random, target: Target) -> str:
    set_segments(edit, segments(edit), moved=True)
    return "the same table at the end of the file"


@kind(
    "section header: field",
    lambda image: [(i, c) for i in range(len(image.sections)) for c in range(len(OF_SECTION))],
)
def section_field(edit: FileEdit, dice: random.Random, target: tuple[int, int]) -> str:
    index, column = target
    edit.heads[index][column] = value = other_value(edit.heads[index][column], dice)
    return f"{OF_SECTION[column]} of section {index} is {value:#x}"


ADDED = (
    (".vmi.more", PROGBITS, 0), (".vmi.more", PROGBITS, 2), (".vmi.more", PROGBITS, 6),
    (".rel.vmi.more", 9, 0), (".rela.text", 4, 0), (".note.more", 7, 2), (".init_array", 14, 3),
    (".group", 17, 0), (".symtab", 2, 0), (".strtab", 3, 0), (".bss", NOBITS, 3), (".text", 1, 6),
    (".vmi.manifest", 1, 0), (".vmi.restore", 1, 0), (".modinfo", 1, 2), ("", 0, 0),
)  # fmt: skip


@kind("section: added", lambda _: [(i,) for i in range(len(ADDED))])
def section_added(edit: FileEdit, dice: random.Random, target: tuple[int]) -> str:
    name, number, flags = ADDED[target[0]]
    va = dice.choice([head[ADDR] + head[SIZE] for head in edit.heads if head[FLAGS] & 2])
    content = b"" if dice.random() < 0.3 else dice.randbytes(16)
    edit.add_section(name, number, content, flags=flags, addr=va if flags & 2 else 0)
    return f"{name!r}, type {number}, flags {flags:#x}, {len(content)} bytes"


@kind("section: removed", _every_section)
def section_removed(edit: FileEdit, dice: random.Random, target: tuple[int]) -> str:
    (index,) = target
    name = edit.name(index)
    if index == edit.names or name == ".symtab" or dice.random() < 0.5:
        edit.heads[index] = [0] * 10
        return f"{name}: its header is zero"
    new = [None if i == index else i - (i > index) for i in range(len(edit.heads))]
    renumber(edit, new)
    return f"{name}: all others renumbered"


@kind("section: reordered", _pairs_of_sections)
def sections_reordered(edit: FileEdit, dice: random.Random, target: tuple[int, int]) -> str:
    low, high = target
    names = edit.name(low), edit.name(high)
    new = list(range(len(edit.heads)))
    new[low], new[high] = high, low
    renumber(edit, new)
    return f"{names[0]} and {names[1]}, numbers corrected"


@kind("section: resized", _every_section)
def section_resized(edit: FileEdit, dice: random.Random, target: tuple[int]) -> str:
    head = edit.heads[target[0]]
    by = dice.choice((-16, -4, -1, 1, 4, 16))
    if head[SIZE] + by < 0:
        by = -by
    head[SIZE] += by
    return f"{edit.name(target[0])} by {by}"


@kind("section: renamed", _every_section)
def section_renamed(edit: FileEdit, dice: random.Random, target: tuple[int]) -> str:
    (index,) = target
    old = edit.name(index)
    other = edit.heads[dice.choice([i for i in range(1, len(edit.heads)) if i != index])]
    edit.heads[index][NAME] = other[NAME] if dice.random() < 0.5 else other[NAME] + 1
    if edit.name(index) == old:
        raise NotHere
    return f"{old} is {edit.name(index)}"


@kind("section: contents moved", _every_section)
def contents_moved(edit: FileEdit, dice: random.Random, target: tuple[int]) -> str:
    head = edit.heads[target[0]]
    if head[FLAGS] & 2 or not head[SIZE]:
        raise NotHere
    head[OFFSET] = edit.append(bytes(edit.data[head[OFFSET] : head[OFFSET] + head[SIZE]]))
    return f"{edit.name(target[0])}, the same bytes at the end of the file"


@kind("section headers: moved", lambda _: [()])
def section_headers_moved(edit: FileEdit, dice: random.Random, target: Target) -> str:
    table = b"".join(struct.pack("<10I", *head) for head in edit.heads)
    struct.pack_into("<I", edit.data, 32, edit.append(table))
    return "the same table at the end of the file"


@kind("section headers: one more", lambda _: [(0,), (1,)])
def one_more_header(edit: FileEdit, dice: random.Random, target: tuple[int]) -> str:
    edit.heads.append([0] * 10 if target[0] else list(dice.choice(edit.heads)))
    return "a zero header" if target[0] else "a copy of another"


@kind("sections: overlapping", _pairs_of_sections)
def overlapping(edit: FileEdit, dice: random.Random, target: tuple[int, int]) -> str:
    low, high = (edit.heads[i] for i in target)
    if not low[FLAGS] & 2 or not high[FLAGS] & 2:
        raise NotHere
    low[SIZE] = high[ADDR] + 4 - low[ADDR]
    if low[SIZE] < 0:
        raise NotHere
    return f"{edit.name(target[0])} reaches into {edit.name(target[1])}"


@kind("section header: info and flags", _every_section)
def info_and_flags(edit: FileEdit, dice: random.Random, target: tuple[int]) -> str:
    head = edit.heads[target[0]]
    bit = dice.choice((0x10, 0x20, 0x40, 0x80, 0x200, 0x400, 0x800, 0x200000, 0x80000000))
    head[FLAGS] ^= bit
    if dice.random() < 0.3:
        head[INFO] = other_value(head[INFO], dice)
    return f"{edit.name(target[0])}: flag {bit:#x}"

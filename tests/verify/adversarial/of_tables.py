# SPDX-License-Identifier: MIT
"""Changes of relocations, symbols, strings and notes: each added, removed, altered, reordered."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

from tests.verify.adversarial.kinds import (
    NotHere,
    Target,
    kind,
    other_byte,
    other_value,
    times,
)
from tests.verify.adversarial.raw import ENTRY, SYMBOL, entries, set_entries
from tests.verify.edit import ADDR, FLAGS, INFO, LINK, OFFSET, SIZE, FileEdit
from vmipatch.image.elf import ElfImage
from vmipatch.image.types import SectionKind

R_386_NONE, R_386_32, R_386_PC32 = 0, 1, 2
COLUMNS = ("st_name", "st_value", "st_size", "st_info", "st_other", "st_shndx")
WIDTHS = (4, 4, 4, 1, 1, 2)


def _rels(image: ElfImage) -> Sequence[Target]:
    return [(s.name,) for s in image.sections if s.kind is SectionKind.REL]


def _strings(image: ElfImage) -> Sequence[Target]:
    return [(s.name,) for s in image.sections if s.kind is SectionKind.STRTAB and s.size]


def _notes(image: ElfImage) -> Sequence[Target]:
    return [(s.name,) for s in image.sections if s.kind is SectionKind.NOTE and s.size > 12]


@kind("relocation: removed", _rels)
def relocation_removed(edit: FileEdit, dice: random.Random, target: tuple[str]) -> str:
    rows = entries(edit, *target)
    if not rows:
        raise NotHere
    index = dice.choice((0, len(rows) - 1, dice.randrange(len(rows))))
    del rows[index]
    set_entries(edit, target[0], rows)
    return f"entry {index} of {target[0]}"


@kind("relocation: added", _rels, weight=2)
def relocation_added(edit: FileEdit, dice: random.Random, target: tuple[str]) -> str:
    (name,) = target
    rows = entries(edit, name)
    home = edit.heads[edit.head(name)[INFO]]
    if not home[SIZE]:
        raise NotHere
    place = home[ADDR] + dice.randrange(home[SIZE])
    count = edit.head(".symtab")[SIZE] // SYMBOL.size
    number = dice.choice((R_386_NONE, R_386_32, R_386_PC32))
    rows.insert(dice.choice((0, len(rows))), [place, dice.randrange(count) << 8 | number])
    set_entries(edit, name, rows)
    return f"type {number} at {place:#x} in {name}"


@kind("relocation: doubled", _rels)
def relocation_doubled(edit: FileEdit, dice: random.Random, target: tuple[str]) -> str:
    rows = entries(edit, *target)
    if not rows:
        raise NotHere
    index = dice.randrange(len(rows))
    rows.insert(index, list(rows[index]))
    set_entries(edit, target[0], rows)
    return f"entry {index} of {target[0]}"


@kind("relocation: type", _rels)
def relocation_type(edit: FileEdit, dice: random.Random, target: tuple[str]) -> str:
    row = _one(edit, dice, target[0])
    (info,) = struct.unpack_from("<I", edit.data, row + 4)
    number = dice.choice([t for t in (0, 1, 2, 3, 8, 20, 21) if t != info & 0xFF])
    struct.pack_into("<I", edit.data, row + 4, info & ~0xFF | number)
    return f"an entry of {target[0]} has type {number}"


@kind("relocation: symbol", _rels)
def relocation_symbol(edit: FileEdit, dice: random.Random, target: tuple[str]) -> str:
    row = _one(edit, dice, target[0])
    (info,) = struct.unpack_from("<I", edit.data, row + 4)
    count = edit.head(".symtab")[SIZE] // SYMBOL.size
    number = dice.choice((0, (info >> 8) ^ 1, dice.randrange(count), 0xFFFFFF))
    if number == info >> 8:
        raise NotHere
    struct.pack_into("<I", edit.data, row + 4, number << 8 | info & 0xFF)
    return f"an entry of {target[0]} has symbol {number}"


@kind("relocation: place", _rels)
def relocation_place(edit: FileEdit, dice: random.Random, target: tuple[str]) -> str:
    row = _one(edit, dice, target[0])
    (place,) = struct.unpack_from("<I", edit.data, row)
    value = dice.choice((place + 1, place - 4, place + 4, 0, other_value(place, dice)))
    struct.pack_into("<I", edit.data, row, value & 0xFFFFFFFF)
    return f"an entry of {target[0]} is for {value:#x}"


@kind("relocations: reordered", _rels)
def relocations_reordered(edit: FileEdit, dice: random.Random, target: tuple[str]) -> str:
    rows = entries(edit, *target)
    if len(rows) < 2:
        raise NotHere
    low = dice.randrange(len(rows) - 1)
    rows[low], rows[low + 1] = rows[low + 1], rows[low]
    set_entries(edit, target[0], rows)
    return f"entries {low} and {low + 1} of {target[0]}"


@kind("relocation: moved to another section", _rels)
def relocation_moved(edit: FileEdit, dice: random.Random, target: tuple[str]) -> str:
    rels = [edit.name(i) for i, head in enumerate(edit.heads) if head[1] == SectionKind.REL]
    there = dice.choice([name for name in rels if name != target[0]])
    rows = entries(edit, target[0])
    if not rows:
        raise NotHere
    one = rows.pop(dice.randrange(len(rows)))
    set_entries(edit, target[0], rows)
    set_entries(edit, there, [*entries(edit, there), one])
    return f"one of {target[0]} to {there}"


def _one(edit: FileEdit, dice: random.Random, name: str) -> int:
    head = edit.head(name)
    if not head[SIZE]:
        raise NotHere
    return int(head[OFFSET] + ENTRY.size * dice.randrange(head[SIZE] // ENTRY.size))


def _symbol(edit: FileEdit, dice: random.Random) -> tuple[int, list[int]]:
    head = edit.head(".symtab")
    index = dice.randrange(1, head[SIZE] // SYMBOL.size)
    at = head[OFFSET] + SYMBOL.size * index
    return at, list(SYMBOL.unpack_from(edit.data, at))


@kind("symbol: field", lambda _: [(c,) for c in range(len(COLUMNS))], weight=25)
def symbol_field(edit: FileEdit, dice: random.Random, target: tuple[int]) -> str:
    (column,) = target
    at, row = _symbol(edit, dice)
    row[column] = value = other_value(row[column], dice, WIDTHS[column])
    SYMBOL.pack_into(edit.data, at, *row)
    return f"{COLUMNS[column]} of the symbol at offset {at:#x} is {value:#x}"


@kind("symbol: field of an added one", lambda _: [(c,) for c in range(len(COLUMNS))], weight=3)
def added_symbol_field(edit: FileEdit, dice: random.Random, target: tuple[int]) -> str:
    (column,) = target
    head = edit.head(".symtab")
    at = head[OFFSET] + head[SIZE] - SYMBOL.size * dice.randrange(1, 8)
    row = list(SYMBOL.unpack_from(edit.data, at))
    row[column] = value = other_value(row[column], dice, WIDTHS[column])
    SYMBOL.pack_into(edit.data, at, *row)
    return f"{COLUMNS[column]} of the symbol at offset {at:#x} is {value:#x}"


@kind("symbol: added", times(6))
def symbol_added(edit: FileEdit, dice: random.Random, target: Target) -> str:
    _, row = _symbol(edit, dice)
    row[dice.randrange(1, 4)] += 1
    edit.rewrite(".symtab", edit.content(".symtab") + SYMBOL.pack(*row))
    return "a copy of one, altered, at the end"


@kind("symbol: removed", times(6))
def symbol_removed(edit: FileEdit, dice: random.Random, target: Target) -> str:
    head, table = edit.head(".symtab"), edit.content(".symtab")
    if target[0] % 2:
        head[SIZE] -= SYMBOL.size
        return "the last one"
    at = SYMBOL.size * dice.randrange(1, len(table) // SYMBOL.size)
    table = table[:at] + table[at + SYMBOL.size :]
    edit.data[head[OFFSET] : head[OFFSET] + len(table)] = table
    head[SIZE] = len(table)
    return f"that at {at:#x} of the table"


@kind("symbols: reordered", times(8))
def symbols_reordered(edit: FileEdit, dice: random.Random, target: Target) -> str:
    head = edit.head(".symtab")
    index = dice.randrange(1, head[SIZE] // SYMBOL.size - 1)
    at = head[OFFSET] + SYMBOL.size * index
    first, second = (bytes(edit.data[at + i * SYMBOL.size :][: SYMBOL.size]) for i in (0, 1))
    if first == second:
        raise NotHere
    edit.data[at : at + 2 * SYMBOL.size] = second + first
    return f"symbols {index} and {index + 1}"


@kind("strings: a byte", _strings, weight=8)
def string_byte(edit: FileEdit, dice: random.Random, target: tuple[str]) -> str:
    head = edit.head(*target)
    at = head[OFFSET] + dice.choice((0, head[SIZE] - 1, dice.randrange(head[SIZE])))
    edit.data[at] = other_byte(edit.data[at], dice)
    return f"offset {at:#x} in {target[0]}"


@kind("strings: longer", _strings, weight=2)
def strings_longer(edit: FileEdit, dice: random.Random, target: tuple[str]) -> str:
    edit.rewrite(*target, edit.content(*target) + dice.choice((b"\0", b"more\0", b"x")))
    return f"a name more in {target[0]}"


@kind("symbol: its name elsewhere", times(6))
def name_elsewhere(edit: FileEdit, dice: random.Random, target: Target) -> str:
    """The same name, but from another place of the strings."""
    at, row = _symbol(edit, dice)
    strings = edit.content(".strtab")
    end = strings.index(0, row[0])
    name = strings[row[0] : end + 1]
    row[0] = len(strings)
    edit.rewrite(".strtab", strings + name)
    SYMBOL.pack_into(edit.data, at, *row)
    return f"{name[:-1].decode(errors='replace')} from the end of the strings"


@kind("note: a byte", _notes, weight=12)
def note_byte(edit: FileEdit, dice: random.Random, target: tuple[str]) -> str:
    head = edit.head(*target)
    at = head[OFFSET] + dice.choice((*range(0, 12), dice.randrange(head[SIZE])))
    edit.data[at] = other_byte(edit.data[at], dice)
    return f"offset {at - head[OFFSET]:#x} of {target[0]}"


@kind("note: added", _notes, weight=4)
def note_added(edit: FileEdit, dice: random.Random, target: tuple[str]) -> str:
    head = edit.head(*target)
    note = struct.pack("<III4s4s", 4, 4, dice.randrange(32), dice.choice((b"Xen\0", b"GNU\0")),
                       dice.randbytes(4))  # fmt: skip
    at = head[OFFSET] + head[SIZE]
    if dice.random() < 0.5:
        edit.data[at : at + len(note)] = note
        head[SIZE] += len(note)
    else:
        edit.add_section(".note.more", 7, note, flags=2, addr=head[ADDR] + head[SIZE], align=4)
    return "in the section" if head[OFFSET] + head[SIZE] > at else "in a section of its own"


@kind("section: another link", _rels)
def another_link(edit: FileEdit, dice: random.Random, target: tuple[str]) -> str:
    """A second symbol table that differs in one address, for one relocation section."""
    table = bytearray(edit.content(".symtab"))
    at = SYMBOL.size * dice.randrange(1, len(table) // SYMBOL.size) + 4
    table[at] ^= 4
    link = edit.head(".symtab")[LINK]
    edit.add_section(".symtab2", 2, bytes(table), link=link, entry=SYMBOL.size, align=4)
    edit.head(*target)[LINK] = len(edit.heads) - 1
    assert not edit.heads[-1][FLAGS]
    return f"{target[0]} by a symbol table of its own"

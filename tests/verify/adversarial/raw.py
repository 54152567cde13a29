# SPDX-License-Identifier: MIT
"""How are headers of an ELF file changed that others count on: segments, numbers of sections?

Nothing of the product writes here; layouts are those of the System V ABI, chapters 4 and 5.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from tests.verify.edit import INFO, LINK, OFFSET, REL, SHSTRNDX_AT, SIZE, TYPE, FileEdit

PHOFF_AT, PHNUM_AT = 28, 44
SEGMENT, SYMBOL, ENTRY = struct.Struct("<8I"), struct.Struct("<IIIBBH"), struct.Struct("<II")
"""Elf32_Phdr, Elf32_Sym, Elf32_Rel."""
NAME_OF, VALUE, LENGTH, KIND, OTHER, HOME = range(6)
"""Columns of a symbol."""
SYMTAB, SHN_LORESERVE = 2, 0xFF00
Swap = tuple[int, int]


def segments(edit: FileEdit) -> list[list[int]]:
    """The program headers."""
    off, count = _table(edit)
    return [list(SEGMENT.unpack_from(edit.data, off + SEGMENT.size * i)) for i in range(count)]


def set_segments(edit: FileEdit, rows: Sequence[Sequence[int]], *, moved: bool = False) -> None:
    """Write them, to the end of the file if `moved`, else over those that are there."""
    off, _ = _table(edit)
    table = b"".join(SEGMENT.pack(*row) for row in rows)
    if moved:
        off = edit.append(table)
    edit.data[off : off + len(table)] = table
    struct.pack_into("<I", edit.data, PHOFF_AT, off)
    struct.pack_into("<H", edit.data, PHNUM_AT, len(rows))


def _table(edit: FileEdit) -> Swap:
    (off,) = struct.unpack_from("<I", edit.data, PHOFF_AT)
    (count,) = struct.unpack_from("<H", edit.data, PHNUM_AT)
    return off, count


def renumber(edit: FileEdit, new: Sequence[int | None]) -> None:
    """Put section `i` at `new[i]`, or leave it out, and correct whatever holds a number of one."""
    table = edit.head(".symtab")
    for row in symbols(edit):
        at, columns = row
        if columns[HOME] < SHN_LORESERVE and columns[HOME] < len(new):
            columns[HOME] = new[columns[HOME]] or 0
            SYMBOL.pack_into(edit.data, at, *columns)
    assert table[TYPE] == SYMTAB
    heads = {to: head for head, to in zip(edit.heads, new, strict=True) if to is not None}
    edit.heads = [heads[i] for i in sorted(heads)]
    for head in edit.heads:
        if head[LINK] < len(new):
            head[LINK] = new[head[LINK]] or 0
        if head[TYPE] == REL and head[INFO] < len(new):
            head[INFO] = new[head[INFO]] or 0
    edit.names = new[edit.names] or 0
    struct.pack_into("<H", edit.data, SHSTRNDX_AT, edit.names)


def symbols(edit: FileEdit) -> Iterator[tuple[int, list[int]]]:
    """File offset and columns of each symbol."""
    head = edit.head(".symtab")
    for at in range(head[OFFSET], head[OFFSET] + head[SIZE], SYMBOL.size):
        yield at, list(SYMBOL.unpack_from(edit.data, at))


def entries(edit: FileEdit, name: str) -> list[list[int]]:
    """Place and info of each entry of a relocation section."""
    return [list(row) for row in ENTRY.iter_unpack(edit.content(name))]


def set_entries(edit: FileEdit, name: str, rows: Sequence[Sequence[int]]) -> None:
    """Write them: in place if as many fit, else at the end of the file."""
    head, table = edit.head(name), b"".join(ENTRY.pack(*row) for row in rows)
    if len(table) <= head[SIZE]:
        edit.data[head[OFFSET] : head[OFFSET] + len(table)] = table
        head[SIZE] = len(table)
    else:
        edit.rewrite(name, table)

# SPDX-License-Identifier: MIT
"""Which ud2 in the code is followed by the line and file of its BUG(), which are no instructions.

Up to 2.6.19 (include/asm-i386/bug.h of 2.6.18) `ud2; .word line; .long file`, where the trap
handler looks for it. Nothing names these places: a ud2 with a line, and with the address of the
name of a source file, is one; any other is an instruction. Kernels with a __bug_table have none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vmipatch.tables.bug_table import BUG_TABLE, UD2
from vmipatch.tables.layout import places
from vmipatch.tables.table import U32, WORD, Mask, Role, Table, TableName, WordForm
from vmipatch.tables.view import ImageView

ENTRY = np.dtype([("code", "u1", (len(UD2),)), ("line", "<u2"), ("file", "<u4")])
INLINE_BUG_LEN = ENTRY.itemsize
UD2_LEN = len(UD2)
FILE_AT = 4
SOURCES = (b".c", b".h", b".S")


@dataclass(frozen=True, slots=True)
class InlineBugKind:
    """The records of BUG() that stand in the code."""

    name: TableName = TableName.INLINE_BUGS

    def parse(self, view: ImageView) -> Table | None:
        """All records, None if there are none. Places are a ud2 with its line and file."""
        if BUG_TABLE.locate(view.image) is not None:
            return None
        va = _candidates(view)
        if not len(va):
            return None
        entries = np.frombuffer(view.bytes_at(va, INLINE_BUG_LEN).tobytes(), ENTRY)
        legible = [_is_source(name) for name in view.strings_at(entries["file"])]
        fits = np.array(legible) & (entries["line"] > 0)
        va, entries = va[fits], entries[fits]
        if not len(va):
            return None
        words = np.zeros(len(va), WORD)
        words["va"], words["target_va"] = va + np.uint32(FILE_AT), entries["file"]
        words["form"], words["role"] = WordForm.ABSOLUTE, Role.DATA
        return Table(
            name=self.name,
            layout="8 bytes: ud2, u16 line, u32 file",
            start_va=int(va[0]),
            end_va=int(va[-1]) + INLINE_BUG_LEN,
            entries=entries,
            words=words,
            places=places(va, INLINE_BUG_LEN),
            in_code=True,
        )


def _candidates(view: ImageView) -> U32:
    """Addresses of every ud2 whose word at FILE_AT points at data of the file."""
    found = [np.zeros(0, np.uint32)]
    for section in view.image.executable_sections:
        if not section.has_bytes or section.size < INLINE_BUG_LEN:
            continue
        code = view.octet[section.off : section.off + section.size]
        last = len(code) - INLINE_BUG_LEN + 1
        at = np.flatnonzero((code[:last] == UD2[0]) & (code[1 : last + 1] == UD2[1]))
        found.append((section.va + at.astype(np.int64)).astype(np.uint32))
    va = np.concatenate(found)
    file_va = view.words_at(va + np.uint32(FILE_AT))
    return va[_is_data(view, file_va)]


def _is_data(view: ImageView, va: U32) -> Mask:
    return view.stored.hold(va) & ~view.code.hold(va)


def _is_source(name: bytes) -> bool:
    return name.endswith(SOURCES) and name.isascii() and name.decode().isprintable()


INLINE_BUGS = InlineBugKind()

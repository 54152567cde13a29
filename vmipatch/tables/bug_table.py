# SPDX-License-Identifier: MIT
"""__bug_table: which ud2 stands for which BUG() or WARN().

`struct bug_entry` of include/asm-generic/bug.h as arch/x86/include/asm/bug.h fills it, since 2.6.20
(include/asm-i386/bug.h): absolute words on 32-bit processors up to 6.1 and beyond, relative ones
where GENERIC_BUG_RELATIVE_POINTERS is set. Some kernels around 4.13 have a ud0 for WARN(), and
4.14's sources a ud1 (bug.h of 4.19 names all three). Searched from the first entry to the last, in
any order. Before 2.6.20: `inline_bugs`.
"""

from __future__ import annotations

import numpy as np

from vmipatch.tables.layout import Draft, TableField, TableKind, TableLayout, places
from vmipatch.tables.locate import between, first_of, section
from vmipatch.tables.nops import any_of
from vmipatch.tables.table import Role, TableName, WordForm

UD2 = bytes.fromhex("0f0b")
UNDEFINED = (UD2, bytes.fromhex("0fff"), bytes.fromhex("0fb9"))


def _check(draft: Draft) -> None:
    draft.require_code("bug", len(UD2))
    bug = draft.target("bug")
    is_undefined = any_of(draft.view.bytes_at(bug, len(UD2)), UNDEFINED)
    draft.require(is_undefined, "does not point at a ud2", bug)
    if "file" in draft.words:
        draft.require_data("file")


def _places(draft: Draft) -> np.ndarray:
    return places(draft.target("bug"), len(UD2))


def _layouts(form: WordForm, kind: str) -> tuple[TableLayout, ...]:
    bug, file = TableField("bug", form, Role.INSTRUCTION), TableField("file", form, Role.DATA)
    return (
        TableLayout(
            f"12 bytes: {kind} bug, {kind} file, u16 line, u16 flags",
            np.dtype([("bug", "<u4"), ("file", "<u4"), ("line", "<u2"), ("flags", "<u2")]),
            (bug, file),
            _check,
            _places,
        ),
        TableLayout(
            f"8 bytes: {kind} bug, u16 flags, padding",
            np.dtype([("bug", "<u4"), ("flags", "<u2"), ("pad", "<u2")]),
            (bug,),
            _check,
            _places,
        ),
    )


BUG_TABLE = TableKind(
    TableName.BUG_TABLE,
    first_of(between("__start___bug_table", "__stop___bug_table"), section("__bug_table")),
    (*_layouts(WordForm.ABSOLUTE, "u32"), *_layouts(WordForm.RELATIVE, "s32")),
)

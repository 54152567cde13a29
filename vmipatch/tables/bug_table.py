# SPDX-License-Identifier: MIT
"""__bug_table: which ud2 stands for which BUG() or WARN().

arch/x86/include/asm/bug.h and include/asm-generic/bug.h, `struct bug_entry`. Searched from the
first entry to the last, in any order.
"""

from __future__ import annotations

import numpy as np

from vmipatch.tables.layout import Draft, Field, Layout, TableKind, places
from vmipatch.tables.locate import between, first_of, section
from vmipatch.tables.nops import any_of
from vmipatch.tables.table import Form, Role, TableName

UD2 = bytes.fromhex("0f0b")


def _check(draft: Draft) -> None:
    draft.require_code("bug", len(UD2))
    bug = draft.target("bug")
    is_ud2 = any_of(draft.view.bytes_at(bug, len(UD2)), (UD2,))
    draft.require(is_ud2, "does not point at a ud2", bug)
    if "file" in draft.words:
        draft.require_data("file")


def _places(draft: Draft) -> np.ndarray:
    return places(draft.target("bug"), len(UD2))


_BUG = Field("bug", Form.ABSOLUTE, Role.INSTRUCTION)
_FILE = Field("file", Form.ABSOLUTE, Role.DATA)

BUG_TABLE = TableKind(
    TableName.BUG_TABLE,
    first_of(between("__start___bug_table", "__stop___bug_table"), section("__bug_table")),
    (
        Layout(
            "12 bytes: u32 bug, u32 file, u16 line, u16 flags",
            np.dtype([("bug", "<u4"), ("file", "<u4"), ("line", "<u2"), ("flags", "<u2")]),
            (_BUG, _FILE),
            _check,
            _places,
        ),
        Layout(
            "8 bytes: u32 bug, u16 flags, padding",
            np.dtype([("bug", "<u4"), ("flags", "<u2"), ("pad", "<u2")]),
            (_BUG,),
            _check,
            _places,
        ),
    ),
)

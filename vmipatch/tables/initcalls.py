# SPDX-License-Identifier: MIT
""".initcall.init: which functions does the kernel call once, in this order, at boot.

include/linux/init.h, `initcall_entry_t`: an s32 from the word itself where the architecture has
such relocations (x86 since 4.19), else a pointer. Console initcalls are a table of their own, and
up to 5.0 those of security modules too (include/linux/init.h of 2.6.18, 4.19).
"""

from __future__ import annotations

import numpy as np

from vmipatch.tables.layout import Draft, TableField, TableKind, TableLayout
from vmipatch.tables.locate import between, first_of, section
from vmipatch.tables.table import Role, TableName, WordForm


def _check(draft: Draft) -> None:
    draft.require_code("function")


def _layout(name: str, form: WordForm) -> TableLayout:
    entry = np.dtype([("function", "<u4")])
    return TableLayout(name, entry, (TableField("function", form, Role.FUNCTION),), _check)


_LAYOUTS = (
    _layout("4 bytes: s32 function", WordForm.RELATIVE),
    _layout("4 bytes: u32 function", WordForm.ABSOLUTE),
)

INITCALLS = TableKind(
    TableName.INITCALLS,
    first_of(between("__initcall_start", "__initcall_end"), section(".initcall.init")),
    _LAYOUTS,
)
CON_INITCALLS = TableKind(
    TableName.CON_INITCALLS,
    first_of(between("__con_initcall_start", "__con_initcall_end"), section(".con_initcall.init")),
    _LAYOUTS,
)
SECURITY_INITCALLS = TableKind(
    TableName.SECURITY_INITCALLS,
    first_of(
        between("__security_initcall_start", "__security_initcall_end"),
        section(".security_initcall.init"),
    ),
    _LAYOUTS,
)

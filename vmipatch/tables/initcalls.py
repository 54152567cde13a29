# SPDX-License-Identifier: MIT
""".initcall.init: which functions does the kernel call once, in this order, at boot.

include/linux/init.h, `initcall_entry_t`: an s32 from the word itself where the architecture has
such relocations (x86 since 4.19), else a pointer. Console initcalls are a table of their own.
"""

from __future__ import annotations

import numpy as np

from vmipatch.tables.layout import Draft, Field, Layout, TableKind
from vmipatch.tables.locate import between
from vmipatch.tables.table import Form, Role, TableName


def _check(draft: Draft) -> None:
    draft.require_code("function")


def _layout(name: str, form: Form) -> Layout:
    entry = np.dtype([("function", "<u4")])
    return Layout(name, entry, (Field("function", form, Role.FUNCTION),), _check)


_LAYOUTS = (
    _layout("4 bytes: s32 function", Form.RELATIVE),
    _layout("4 bytes: u32 function", Form.ABSOLUTE),
)

INITCALLS = TableKind(TableName.INITCALLS, between("__initcall_start", "__initcall_end"), _LAYOUTS)
CON_INITCALLS = TableKind(
    TableName.CON_INITCALLS, between("__con_initcall_start", "__con_initcall_end"), _LAYOUTS
)

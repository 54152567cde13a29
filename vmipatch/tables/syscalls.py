# SPDX-License-Identifier: MIT
"""sys_call_table: which function serves which system call.

arch/x86/entry/syscall_32.c: an array of pointers; up to 3.2 in assembly, where its symbol has no
size (arch/i386/kernel/syscall_table.S of 2.6.18). Other arrays of functions and the compiler's
switch tables have no bounds of their own: only relocations tell them.
"""

from __future__ import annotations

import numpy as np

from vmipatch.tables.layout import Draft, TableField, TableKind, TableLayout
from vmipatch.tables.locate import array
from vmipatch.tables.table import Role, TableName, WordForm


def _check(draft: Draft) -> None:
    draft.require_code("function")


SYSCALLS = TableKind(
    TableName.SYSCALLS,
    array("sys_call_table"),
    (
        TableLayout(
            "4 bytes: u32 function",
            np.dtype([("function", "<u4")]),
            (TableField("function", WordForm.ABSOLUTE, Role.FUNCTION),),
            _check,
        ),
    ),
)

# SPDX-License-Identifier: MIT
"""_kprobe_blacklist: which functions must not be probed.

include/asm-generic/kprobes.h: one pointer each, to the first instruction.
"""

from __future__ import annotations

import numpy as np

from vmipatch.tables.layout import Draft, TableField, TableKind, TableLayout
from vmipatch.tables.locate import between
from vmipatch.tables.table import Role, TableName, WordForm


def _check(draft: Draft) -> None:
    draft.require_code("function")


KPROBE_BLACKLIST = TableKind(
    TableName.KPROBE_BLACKLIST,
    between("__start_kprobe_blacklist", "__stop_kprobe_blacklist"),
    (
        TableLayout(
            "4 bytes: u32 function",
            np.dtype([("function", "<u4")]),
            (TableField("function", WordForm.ABSOLUTE, Role.FUNCTION),),
            _check,
        ),
    ),
)

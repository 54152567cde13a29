# SPDX-License-Identifier: MIT
"""__mcount_loc: where are the calls that the function tracer turns into nops.

One u32 for each call, include/linux/ftrace.h. Relocations of this table name the wrong symbol
after the build sorted it: only the stored value counts.
"""

from __future__ import annotations

import numpy as np

from vmipatch.tables.layout import Draft, Field, Layout, TableKind, places
from vmipatch.tables.locate import between
from vmipatch.tables.nops import CALL, NOP5, any_of
from vmipatch.tables.table import Form, Order, Role, TableName

PATCH_LEN = 5


def _check(draft: Draft) -> None:
    draft.require_code("call", PATCH_LEN)
    call = draft.target("call")
    code = draft.view.bytes_at(call, PATCH_LEN)
    patchable = (code[:, 0] == CALL) | any_of(code, NOP5)
    draft.require(patchable, "is neither a call nor a 5-byte nop", call)


def _check_sorted(draft: Draft) -> None:
    _check(draft)
    call = draft.target("call")
    ascending = np.ones(len(call), dtype=np.bool_)
    ascending[1:] = call[1:] > call[:-1]
    draft.require(ascending, "does not point behind the one before it", call)


def _places(draft: Draft) -> np.ndarray:
    return places(draft.target("call"), PATCH_LEN)


MCOUNT = TableKind(
    TableName.MCOUNT,
    between("__start_mcount_loc", "__stop_mcount_loc"),
    (
        Layout(
            "4 bytes: u32 call, sorted by the build",
            np.dtype([("call", "<u4")]),
            (Field("call", Form.ABSOLUTE, Role.INSTRUCTION),),
            _check_sorted,
            _places,
            Order.SORTED,
        ),
    ),
)

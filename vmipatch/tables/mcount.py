# SPDX-License-Identifier: MIT
"""__mcount_loc: where are the calls that the function tracer turns into nops.

One u32 for each call, include/linux/ftrace.h. Up to 2.6.38 it is the address of the call's
operand (ftrace_call_adjust() in arch/x86/include/asm/ftrace.h of 2.6.32), later that of the call.
Kernels sort their list at boot, but for those whose build did: their relocations name the wrong
symbol then, and only the stored value counts. With -mfentry the call is a function's first
instruction; the build of some kernels has replaced it by a nop. Where the build sorts the list it
may have emptied entries, of functions that others overruled (scripts/sorttable.c of 7.2): zeros,
which come first, and which the kernel skips.
"""

from __future__ import annotations

import numpy as np

from vmipatch.tables.layout import (
    Bias,
    Draft,
    Presence,
    TableField,
    TableKind,
    TableLayout,
    always,
    biased_by,
    no_bias,
    nonzero,
    places,
    sorted_by,
)
from vmipatch.tables.locate import between
from vmipatch.tables.nops import CALL, NOP5, any_of
from vmipatch.tables.table import Role, TableName, WordForm

PATCH_LEN = 5


def _check(draft: Draft) -> None:
    draft.require_code("call", PATCH_LEN)
    call, empty = draft.target("call"), ~draft.present["call"]
    code = draft.view.bytes_at(call, PATCH_LEN)
    patchable = (code[:, 0] == CALL) | any_of(code, NOP5)
    draft.require(patchable | empty, "is neither a call nor a 5-byte nop", call)
    first = np.zeros(len(call), dtype=np.bool_)
    first[np.unique(call, return_index=True)[1]] = True
    draft.require(first | empty, "names a call that an entry before it names", call)
    if empty.any():
        why = "points below the one before it, and a list with empty entries is sorted"
        draft.require(draft.ascends("call"), why, call)


def _places(draft: Draft) -> np.ndarray:
    return places(draft.target("call")[draft.present["call"]], PATCH_LEN)


def _layout(name: str, bias: Bias, present: Presence = always) -> TableLayout:
    call = TableField("call", WordForm.ABSOLUTE, Role.INSTRUCTION, bias=bias, present=present)
    return TableLayout(
        name, np.dtype([("call", "<u4")]), (call,), _check, _places, sorted_by("call")
    )


MCOUNT = TableKind(
    TableName.MCOUNT,
    between("__start_mcount_loc", "__stop_mcount_loc"),
    (
        _layout("4 bytes: u32 call", no_bias, nonzero),
        _layout("4 bytes: u32 call + 1, its operand", biased_by(1)),
    ),
)

# SPDX-License-Identifier: MIT
"""_ftrace_events and kin: where are the descriptions of trace events and tracepoints.

include/linux/trace_events.h and tracepoint-defs.h. All of them are pointers to data, which
moves only where whole sections do; the functions are named by the data.
"""

from __future__ import annotations

import numpy as np

from vmipatch.tables.layout import Draft, Field, Layout, TableKind
from vmipatch.tables.locate import between
from vmipatch.tables.table import Form, Role, TableName


def _check(draft: Draft) -> None:
    draft.require_data("data")


def _layout(name: str, form: Form) -> Layout:
    return Layout(name, np.dtype([("data", "<u4")]), (Field("data", form, Role.DATA),), _check)


_POINTER = _layout("4 bytes: u32 data", Form.ABSOLUTE)
_RELATIVE = _layout("4 bytes: s32 data", Form.RELATIVE)

FTRACE_EVENTS = TableKind(
    TableName.FTRACE_EVENTS,
    between("__start_ftrace_events", "__stop_ftrace_events"),
    (_POINTER,),
)
FTRACE_EVAL_MAPS = TableKind(
    TableName.FTRACE_EVAL_MAPS,
    between("__start_ftrace_eval_maps", "__stop_ftrace_eval_maps"),
    (_POINTER,),
)
TRACEPOINTS = TableKind(
    TableName.TRACEPOINTS,
    between("__start___tracepoints_ptrs", "__stop___tracepoints_ptrs"),
    (_RELATIVE, _POINTER),
)

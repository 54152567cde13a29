# SPDX-License-Identifier: MIT
"""_ftrace_events and kin: where are the descriptions of trace events and tracepoints.

Pointers to data, which moves only where whole sections do; the functions are named by the data.
include/linux/trace_events.h and tracepoint-defs.h of 6.1; absolute since 2.6.38, tracepoints
relative since 4.19. Before, the structures themselves stand in a row:

- `struct tracepoint` (include/linux/tracepoint.h): name, state and probes from 2.6.28, with two
  functions in 32 bytes from 2.6.31 (2.6.32);
- `struct marker` (include/linux/marker.h, 2.6.24 to 2.6.31): with one probe (2.6.24), then with one
  or many, then with a tracepoint;
- `struct ftrace_event_call` (include/linux/ftrace_event.h, 2.6.30 to 2.6.37): two empty list links,
  and other members in every version and configuration (2.6.32). Its columns tell what they are:
  addresses, zeros, or numbers that are none.
"""

from __future__ import annotations

import numpy as np

from vmipatch.tables.layout import Draft, TableField, TableKind, TableLayout, in_image
from vmipatch.tables.locate import between
from vmipatch.tables.record import code, data, number, record, zero
from vmipatch.tables.table import Role, TableName, WordForm

_POINTER = record("u32 data", data("data"))
_RELATIVE = record("s32 data", data("data", form=WordForm.RELATIVE))

LIST_LINKS = 2
"""Words at the start of an event: a list head that boot fills."""
EVENT_WORDS = range(16, 65)
"""How many words an event may have: 22 in 2.6.32, and structures may be aligned to 32 bytes."""


def _events(words: int) -> TableLayout:
    """Structures of `words` words, of which each is an address in all entries, or in none."""
    names = [f"word {i}" for i in range(words)]
    entry = np.dtype([(name, "<u4") for name in names])

    def check(draft: Draft) -> None:
        for i, name in enumerate(names):
            raw = draft.entries[name]
            if i < LIST_LINKS:
                draft.require(raw == 0, f"has something in its {name}", raw)
            elif draft.present[name].any():
                plausible = draft.present[name] | (raw == 0)
                draft.require(plausible, f"has no address in its {name}", raw)
        draft.require(draft.present[names[LIST_LINKS]], "has no name or class")

    fields = tuple(
        TableField(name, WordForm.ABSOLUTE, Role.SYMBOL, present=in_image) for name in names
    )
    return TableLayout(f"{4 * words} bytes: struct ftrace_event_call", entry, fields, check)


FTRACE_EVENTS = TableKind(
    TableName.FTRACE_EVENTS,
    between("__start_ftrace_events", "__stop_ftrace_events"),
    (_POINTER, *map(_events, EVENT_WORDS)),
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
TRACEPOINT_ARRAY = TableKind(
    TableName.TRACEPOINT_ARRAY,
    between("__start___tracepoints", "__stop___tracepoints"),
    (
        record(
            "u32 name, s32 state, u32 regfunc, u32 unregfunc, u32 probes, filling",
            data("name"),
            number("state", below=2),
            code("regfunc", nullable=True),
            code("unregfunc", nullable=True),
            zero("probes"),
            zero("filling", 3),
        ),
        record(
            "u32 name, s32 state, u32 probes, filling",
            data("name"),
            number("state", below=2),
            zero("probes"),
            zero("filling"),
        ),
    ),
)

_MARKER = (data("name"), data("format"), number("state", below=1 << 16))
_PROBES = (code("call"), code("probe"), zero("private"), zero("probes"))
MARKERS = TableKind(
    TableName.MARKERS,
    between("__start___markers", "__stop___markers"),
    (
        record(
            "u32 name, u32 format, s8 state, u32 call, u32 private, filling",
            *_MARKER,
            code("call"),
            zero("private"),
            zero("filling"),
        ),
        record(
            "u32 name, u32 format, s8 state, s8 kind, u32 call, u32 probe, filling",
            *_MARKER,
            *_PROBES,
            zero("filling"),
        ),
        record(
            "u32 name, u32 format, s8 state, s8 kind, u32 call, u32 probe, tracepoint, filling",
            *_MARKER,
            *_PROBES,
            data("tracepoint", nullable=True),
            code("callback", nullable=True),
            zero("filling"),
        ),
    ),
)

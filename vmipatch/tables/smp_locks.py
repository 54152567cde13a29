# SPDX-License-Identifier: MIT
""".smp_locks: which lock prefixes become segment prefixes on one processor.

arch/x86/kernel/alternative.c, alternatives_smp_lock(): one s32 each. The section is padded to a
page with zeros, which the kernel skips.
"""

from __future__ import annotations

import numpy as np

from vmipatch.tables.layout import Draft, Field, Layout, TableKind, nonzero, places
from vmipatch.tables.locate import between, first_of, section
from vmipatch.tables.nops import DS_PREFIX, LOCK
from vmipatch.tables.table import Form, Mask, Role, TableName


def _present(draft: Draft) -> Mask:
    return np.asarray(draft.entries["prefix"] != 0)


def _check(draft: Draft) -> None:
    prefix, absent = draft.target("prefix"), ~_present(draft)
    draft.require_code("prefix", present=~absent)
    octet = draft.view.bytes_at(prefix, 1)[:, 0]
    is_prefix = (octet == LOCK) | (octet == DS_PREFIX)
    draft.require(is_prefix | absent, "does not point at a lock or ds prefix", prefix)


def _places(draft: Draft) -> np.ndarray:
    return places(draft.target("prefix")[_present(draft)], 1)


SMP_LOCKS = TableKind(
    TableName.SMP_LOCKS,
    first_of(between("__smp_locks", "__smp_locks_end"), section(".smp_locks")),
    (
        Layout(
            "4 bytes: s32 prefix",
            np.dtype([("prefix", "<u4")]),
            (Field("prefix", Form.RELATIVE, Role.INSTRUCTION, present=nonzero),),
            _check,
            _places,
        ),
    ),
)

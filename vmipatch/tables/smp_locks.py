# SPDX-License-Identifier: MIT
""".smp_locks: which lock prefixes become segment prefixes on one processor.

One word each: absolute from 2.6.17 (include/asm-i386/alternative.h of 2.6.18,
arch/x86/include/asm/alternative.h of 2.6.32), relative from 2.6.35 or so (the same of 2.6.39;
alternatives_smp_lock() in arch/x86/kernel/alternative.c). The section is padded to a page with
zeros, which the kernel skips.

The kernel looks at the first byte only, after it has applied the alternatives, and leaves what is
no such prefix. So a word may name an alternative's original that is a call, where a replacement is
the locked instruction (`cmpxchg8b_emu` of kernels for processors without CMPXCHG8B, cmpxchg_32.h of
3.13 to 6.12).
"""

from __future__ import annotations

import numpy as np

from vmipatch.tables.alternatives import ALTERNATIVES
from vmipatch.tables.layout import Draft, TableField, TableKind, TableLayout, nonzero, places
from vmipatch.tables.locate import between, first_of, section
from vmipatch.tables.nops import DS_PREFIX, LOCK
from vmipatch.tables.table import U32, Role, TableName, WordForm
from vmipatch.tables.view import ImageView


def _check(draft: Draft) -> None:
    draft.require_code("prefix")
    prefix, absent = draft.target("prefix"), ~draft.present["prefix"]
    octet = draft.view.bytes_at(prefix, 1)[:, 0]
    is_prefix = (octet == LOCK) | (octet == DS_PREFIX)
    if not (is_prefix | absent).all():
        is_prefix |= np.isin(prefix, _locked_by_alternatives(draft.view))
    draft.require(is_prefix | absent, "does not point at a lock or ds prefix", prefix)


def _locked_by_alternatives(view: ImageView) -> U32:
    """The originals of alternatives of which a replacement begins with such a prefix."""
    alternatives = ALTERNATIVES.parse(view)
    if alternatives is None:
        return np.zeros(0, np.uint32)
    places = alternatives.places
    # A replacement stands after its original.
    at = np.flatnonzero((places["role"] == Role.REPLACEMENT) & (places["len"] > 0))
    first = view.bytes_at(np.ascontiguousarray(places["va"][at]), 1)[:, 0]
    result: U32 = places["va"][at[(first == LOCK) | (first == DS_PREFIX)] - 1]
    return result


def _places(draft: Draft) -> np.ndarray:
    return places(draft.target("prefix")[draft.present["prefix"]], 1)


def _layout(name: str, form: WordForm) -> TableLayout:
    prefix = TableField("prefix", form, Role.INSTRUCTION, present=nonzero)
    return TableLayout(name, np.dtype([("prefix", "<u4")]), (prefix,), _check, _places)


SMP_LOCKS = TableKind(
    TableName.SMP_LOCKS,
    first_of(between("__smp_locks", "__smp_locks_end"), section(".smp_locks")),
    (
        _layout("4 bytes: s32 prefix", WordForm.RELATIVE),
        _layout("4 bytes: u32 prefix", WordForm.ABSOLUTE),
    ),
)

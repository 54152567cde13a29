# SPDX-License-Identifier: MIT
"""__ksymtab: which addresses do modules find by name.

include/linux/export.h, `struct kernel_symbol`. Searched by name: the order does not follow the
addresses. Assembly exports store a zero where others point at an empty namespace.
"""

from __future__ import annotations

import itertools

import numpy as np

from vmipatch.tables.layout import Draft, Field, Layout, TableKind, nonzero
from vmipatch.tables.locate import between, first_of, section
from vmipatch.tables.table import Form, Role, TableName


def _check(draft: Draft) -> None:
    draft.require_symbol("value")
    draft.require_data("name")
    if "namespace" in draft.words:
        draft.require_data("namespace", draft.entries["namespace"] != 0)
    stored = draft.view.stored.hold(draft.target("name"))
    draft.require(stored, "has its name outside of the file", draft.target("name"))
    names = [draft.view.string_at(va) for va in draft.target("name").tolist()]
    named = np.array([bool(name) for name in names])
    draft.require(named, "has an empty name")
    ascending = [True, *(low <= high for low, high in itertools.pairwise(names))]
    draft.require(np.array(ascending), "has a name below the one before it")


def _layout(name: str, columns: tuple[str, ...], form: Form) -> Layout:
    fields = {
        "value": Field("value", form, Role.SYMBOL),
        "name": Field("name", form, Role.DATA),
        "namespace": Field("namespace", form, Role.DATA, present=nonzero),
    }
    entry = np.dtype([(column, "<u4") for column in columns])
    return Layout(name, entry, tuple(fields[column] for column in columns), _check)


_LAYOUTS = (
    _layout(
        "12 bytes: s32 value, s32 name, s32 namespace",
        ("value", "name", "namespace"),
        Form.RELATIVE,
    ),
    _layout("8 bytes: s32 value, s32 name", ("value", "name"), Form.RELATIVE),
    _layout("8 bytes: u32 value, u32 name", ("value", "name"), Form.ABSOLUTE),
)

KSYMTAB = TableKind(
    TableName.KSYMTAB,
    first_of(between("__start___ksymtab", "__stop___ksymtab"), section("__ksymtab")),
    _LAYOUTS,
)
KSYMTAB_GPL = TableKind(
    TableName.KSYMTAB_GPL,
    first_of(between("__start___ksymtab_gpl", "__stop___ksymtab_gpl"), section("__ksymtab_gpl")),
    _LAYOUTS,
)

# SPDX-License-Identifier: MIT
"""__ksymtab and kin: which addresses do modules find by name.

`struct kernel_symbol`: two absolute words (include/linux/module.h of 2.6.18, export.h of 4.4), two
relative ones from 4.19, a third for the namespace from 5.4 (export.h of 6.1). Searched by name, so
that the order does not follow the addresses: since 3.0 or so the linker sorts it, before it is that
of the objects. Assembly exports store a zero where others point at an empty namespace. Up to 5.11
there are up to five tables, by licence and by what is to become of the exports.
"""

from __future__ import annotations

import itertools
import re

import numpy as np

from vmipatch.tables.layout import Draft, TableField, TableKind, TableLayout, nonzero
from vmipatch.tables.locate import between, first_of, section
from vmipatch.tables.table import Role, TableName, WordForm

_LEGIBLE = re.compile(rb"[!-~]*")


def _check(draft: Draft) -> None:
    draft.require_symbol("value")
    draft.require_data("name")
    if "namespace" in draft.words:
        draft.require_data("namespace")
    stored = draft.view.stored.hold(draft.target("name"))
    draft.require(stored, "has its name outside of the file", draft.target("name"))
    names = draft.view.strings_at(draft.target("name"))
    draft.require(np.array([bool(name) for name in names]), "has an empty name")
    legible = [_LEGIBLE.fullmatch(name) is not None for name in names]
    draft.require(np.array(legible), "has a name that is not text")


def _check_sorted(draft: Draft) -> None:
    _check(draft)
    names = draft.view.strings_at(draft.target("name"))
    ascending = [True, *(low <= high for low, high in itertools.pairwise(names))]
    draft.require(np.array(ascending), "has a name below the one before it")


def _layout(name: str, columns: tuple[str, ...], form: WordForm) -> TableLayout:
    fields = {
        "value": TableField("value", form, Role.SYMBOL),
        "name": TableField("name", form, Role.DATA),
        "namespace": TableField("namespace", form, Role.DATA, present=nonzero),
    }
    entry = np.dtype([(column, "<u4") for column in columns])
    check = _check if form is WordForm.ABSOLUTE else _check_sorted
    return TableLayout(name, entry, tuple(fields[column] for column in columns), check)


_LAYOUTS = (
    _layout(
        "12 bytes: s32 value, s32 name, s32 namespace",
        ("value", "name", "namespace"),
        WordForm.RELATIVE,
    ),
    _layout("8 bytes: s32 value, s32 name", ("value", "name"), WordForm.RELATIVE),
    _layout("8 bytes: u32 value, u32 name", ("value", "name"), WordForm.ABSOLUTE),
)


def _kind(name: TableName) -> TableKind:
    bounds = between(f"__start_{name.value}", f"__stop_{name.value}")
    return TableKind(name, first_of(bounds, section(name.value)), _LAYOUTS)


KSYMTAB = _kind(TableName.KSYMTAB)
KSYMTAB_GPL = _kind(TableName.KSYMTAB_GPL)
KSYMTAB_UNUSED = _kind(TableName.KSYMTAB_UNUSED)
KSYMTAB_UNUSED_GPL = _kind(TableName.KSYMTAB_UNUSED_GPL)
KSYMTAB_GPL_FUTURE = _kind(TableName.KSYMTAB_GPL_FUTURE)

ALL_KSYMTABS = (KSYMTAB, KSYMTAB_GPL, KSYMTAB_UNUSED, KSYMTAB_UNUSED_GPL, KSYMTAB_GPL_FUTURE)

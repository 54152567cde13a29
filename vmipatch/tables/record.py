# SPDX-License-Identifier: MIT
"""How is a table described whose entries are C structures of addresses and numbers?

Each part of a structure knows how many bytes it has, which address it holds, if any, and what
must be true of it; a layout of such parts is validated without further words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vmipatch.tables.layout import (
    Draft,
    Ordering,
    TableField,
    TableLayout,
    always,
    in_image,
    kept,
    nonzero,
)
from vmipatch.tables.table import Role, WordForm


@dataclass(frozen=True, slots=True)
class RecordPart:
    """One member of a structure."""

    name: str
    kind: str
    """Of its numpy dtype."""
    field: TableField | None
    check: Callable[[Draft], None]


def code(name: str, *, nullable: bool = False, form: WordForm = WordForm.ABSOLUTE) -> RecordPart:
    """The address of a function."""
    field = TableField(name, form, Role.FUNCTION, present=nonzero if nullable else always)
    return RecordPart(name, "<u4", field, lambda draft: draft.require_code(name))


def data(name: str, *, nullable: bool = False, form: WordForm = WordForm.ABSOLUTE) -> RecordPart:
    """The address of data, which is not code."""
    field = TableField(name, form, Role.DATA, present=nonzero if nullable else always)

    def check(draft: Draft) -> None:
        draft.require_data(name)
        target = draft.target(name)
        is_data = ~draft.view.code.hold(target) | ~draft.present[name]
        draft.require(is_data, f"has code at its {name} address", target)

    return RecordPart(name, "<u4", field, check)


def datum(name: str) -> RecordPart:
    """A word that may be the address of anything, or a number."""
    return RecordPart(
        name, "<u4", TableField(name, WordForm.ABSOLUTE, Role.SYMBOL, present=in_image), _nothing
    )


def number(name: str, length: int = 4, below: int | None = None) -> RecordPart:
    """A number of 1, 2 or 4 bytes; less than `below`, if there is such a limit."""
    limit = 1 << 8 * length if below is None else below

    def check(draft: Draft) -> None:
        value = draft.entries[name].astype(np.uint32)
        draft.require(value < limit, f"has no {name}", value)

    return RecordPart(name, f"<u{length}", None, check)


def zero(name: str, words: int = 1) -> RecordPart:
    """Words that are zero in the file."""

    def check(draft: Draft) -> None:
        value = draft.entries[name].reshape(len(draft), words)
        draft.require((value == 0).all(axis=1), f"has something in its {name}")

    return RecordPart(name, f"({words},)<u4", None, check)


def record(name: str, *parts: RecordPart, order: Ordering = kept) -> TableLayout:
    """The layout of a table of structures with these members."""

    def check(draft: Draft) -> None:
        for part in parts:
            part.check(draft)

    entry = np.dtype([(part.name, part.kind) for part in parts])
    fields = tuple(part.field for part in parts if part.field is not None)
    return TableLayout(f"{entry.itemsize} bytes: {name}", entry, fields, check, order=order)


def _nothing(draft: Draft) -> None:
    """Any value will do."""

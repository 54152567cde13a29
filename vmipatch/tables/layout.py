# SPDX-License-Identifier: MIT
"""How is one table laid out? Candidates are tried, and only complete validation tells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vmipatch.errors import MalformedTable
from vmipatch.tables.locate import Locator, Range
from vmipatch.tables.table import PLACE, U32, WORD, Form, Mask, Order, Role, Table, TableName
from vmipatch.tables.view import ImageView

Presence = Callable[[np.ndarray, U32], Mask]
"""Which entries have an address in a field, given all entries and the field's raw words."""


def always(entries: np.ndarray, raw: U32) -> Mask:
    """Every entry has the address."""
    return np.ones(len(raw), dtype=np.bool_)


def nonzero(entries: np.ndarray, raw: U32) -> Mask:
    """A stored zero means that there is no address."""
    return np.asarray(raw != 0)


@dataclass(frozen=True, slots=True)
class Field:
    """One address word of an entry."""

    name: str
    """The field of the entry's dtype that holds it."""
    form: Form
    role: Role
    flag_bits: int = 0
    """Low bits of the word that do not belong to the address."""
    present: Presence = always


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """A table read under one candidate layout, not yet believed."""

    view: ImageView
    name: TableName
    start_va: int
    entries: np.ndarray
    base_va: int
    words: dict[str, np.ndarray]
    """For each field its words, dtype WORD, one for each entry."""

    def __len__(self) -> int:
        return len(self.entries)

    def target(self, field: str) -> U32:
        """What one field points at, for each entry."""
        return np.ascontiguousarray(self.words[field]["target_va"])

    def require(self, holds: Mask, reason: str, shown: U32 | None = None) -> None:
        """Refuse the layout if an entry does not hold, naming the first such entry."""
        if holds.all():
            return
        index = int(np.argmin(holds))
        value = "" if shown is None else f" ({int(shown[index]):#x})"
        raise self.refusal(f"entry {index} {reason}{value}", index)

    def require_code(self, field: str, length: int = 1, present: Mask | None = None) -> None:
        """Each `field` (where `present`) must point at `length` bytes of an executable section."""
        target = self.target(field)
        there = self.view.code.hold(target, length)
        if present is not None:
            there |= ~present
        self.require(there, f"has its {field} address outside of the code", target)

    def require_data(self, field: str, present: Mask | None = None) -> None:
        """Each `field` (where `present`) must point into memory that the image occupies."""
        target = self.target(field)
        there = self.view.allocated.hold(target)
        if present is not None:
            there |= ~present
        self.require(there, f"has its {field} address outside of the image", target)

    def require_symbol(self, field: str) -> None:
        """Each entry's `field` must lie between the image's first and last address, included."""
        target = self.target(field)
        memory = self.view.allocated
        inside = (target >= memory.start_va.min()) & (target <= memory.end_va.max())
        self.require(inside, f"has its {field} address outside of the image", target)

    def refusal(self, reason: str, index: int = 0) -> MalformedTable:
        """The error that names table, address and reason."""
        return MalformedTable(
            f"{self.name.value}: {reason}",
            file=self.view.image.name,
            place=f"{self.start_va + index * self.entries.dtype.itemsize:#x}",
        )


def no_places(draft: Draft) -> np.ndarray:
    """The table names no bytes of code that the kernel touches."""
    return np.zeros(0, PLACE)


def places(va: U32, length: int | np.ndarray, role: Role = Role.INSTRUCTION) -> np.ndarray:
    """An array of dtype PLACE."""
    result = np.zeros(len(va), PLACE)
    result["va"], result["len"], result["role"] = va, length, role
    return result


def no_base(view: ImageView) -> int:
    """The layout has no words that count from a base."""
    return 0


@dataclass(frozen=True, slots=True)
class Layout:
    """One way in which kernels have stored a table."""

    name: str
    """Shown in reports: size and fields of an entry, kernel versions as far as known."""
    entry: np.dtype
    fields: tuple[Field, ...]
    """In the order of the entry's bytes."""
    check: Callable[[Draft], None]
    """Raises MalformedTable (`Draft.require`) unless every entry makes sense."""
    places: Callable[[Draft], np.ndarray] = no_places
    order: Order = Order.KEPT
    base: Callable[[ImageView], int] = no_base

    def read(self, view: ImageView, name: TableName, extent: Range) -> Table:
        """The table at `extent` under this layout. Raises MalformedTable if it does not fit."""
        data = view.image.read(extent.start_va, extent.end_va - extent.start_va)
        entry_len = self.entry.itemsize
        if len(data) % entry_len:
            raise MalformedTable(
                f"{name.value}: {len(data)} bytes are no multiple of the entry's {entry_len}",
                file=view.image.name,
                place=f"{extent.start_va:#x}",
            )
        entries = np.frombuffer(data, dtype=self.entry)
        base_va = self.base(view)
        read = [self._words(field, entries, extent.start_va, base_va) for field in self.fields]
        draft = Draft(
            view,
            name,
            extent.start_va,
            entries,
            base_va,
            {field.name: words for field, (words, _) in zip(self.fields, read, strict=True)},
        )
        self.check(draft)
        return Table(
            name=name,
            layout=self.name,
            start_va=extent.start_va,
            end_va=extent.end_va,
            entries=entries,
            words=_interleave(read),
            places=self.places(draft),
            order=self.order,
            base_va=base_va,
            in_code=bool(view.code.hold(np.array([extent.start_va], np.uint32))[0]),
        )

    def _words(
        self, field: Field, entries: np.ndarray, start_va: int, base_va: int
    ) -> tuple[np.ndarray, Mask]:
        """All words of one field, and which of them hold an address."""
        assert self.entry.fields is not None
        raw = entries[field.name].astype(np.uint32)
        words = np.zeros(len(entries), WORD)
        first_va = start_va + self.entry.fields[field.name][1]
        words["va"] = first_va + np.arange(len(entries)) * self.entry.itemsize
        words["form"], words["role"] = field.form, field.role
        words["flags"] = raw & field.flag_bits
        words["target_va"] = (raw & ~np.uint32(field.flag_bits)) + origin(words, base_va)
        return words, field.present(entries, raw)


def origin(words: np.ndarray, base_va: int) -> U32:
    """What each word's address counts from, by its form."""
    form = words["form"]
    result = np.where(form == Form.ABSOLUTE, 0, words["va"]).astype(np.uint32)
    result[form == Form.BRANCH] += np.uint32(4)
    result[(form == Form.BASE_RELATIVE) | (form == Form.PHYSICAL)] = base_va
    return result


def _interleave(read: list[tuple[np.ndarray, Mask]]) -> np.ndarray:
    """The words of all fields by address, without those that hold none."""
    if not read:
        return np.zeros(0, WORD)
    words = np.stack([words for words, _ in read], axis=1).reshape(-1)
    return words[np.stack([present for _, present in read], axis=1).reshape(-1)]


@dataclass(frozen=True, slots=True)
class TableKind:
    """One table of the kernel: where it is found, and the layouts it may have."""

    name: TableName
    locate: Locator
    layouts: tuple[Layout, ...]

    def parse(self, view: ImageView) -> Table | None:
        """The table in this image, None if it has none.

        Raises MalformedTable if it is there and fits no layout, or more than one.
        """
        extent = self.locate(view.image)
        if extent is None:
            return None
        fitting: list[Table] = []
        refusals: list[MalformedTable] = []
        for layout in self.layouts:
            try:
                fitting.append(layout.read(view, self.name, extent))
            except MalformedTable as refusal:
                refusals.append(refusal)
        if not fitting:
            raise refusals[0]
        if len(fitting) > 1:
            raise MalformedTable(
                f"{self.name.value}: fits {' and '.join(t.layout for t in fitting)} alike",
                file=view.image.name,
                place=f"{extent.start_va:#x}",
            )
        return fitting[0]

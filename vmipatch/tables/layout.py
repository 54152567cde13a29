# SPDX-License-Identifier: MIT
"""How is one table laid out? Candidates are tried, and only complete validation tells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vmipatch.errors import MalformedTable
from vmipatch.tables.locate import Locator, Range
from vmipatch.tables.table import PLACE, U32, WORD, Mask, Order, Role, Table, TableName, WordForm
from vmipatch.tables.view import ImageView


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One field of all entries, as stored."""

    view: ImageView
    entries: np.ndarray
    raw: U32
    """The field's words."""


Presence = Callable[[Column], Mask]
"""Which entries have an address in a field."""

Bias = Callable[[Column], U32]
"""The value added to the address of a field, for each entry."""


def always(column: Column) -> Mask:
    """Every entry has the address."""
    return np.ones(len(column.raw), dtype=np.bool_)


def nonzero(column: Column) -> Mask:
    """A stored zero means that there is no address."""
    return np.asarray(column.raw != 0)


def in_image(column: Column) -> Mask:
    """A stored value is an address if it lies between the ends of the image, the last included."""
    memory = column.view.allocated
    wide = column.raw.astype(np.int64)
    return np.asarray((wide >= memory.start_va.min()) & (wide <= memory.end_va.max()))


def no_bias(column: Column) -> U32:
    """The word is the address and nothing else."""
    return np.zeros(len(column.raw), np.uint32)


def biased_by(value: int) -> Bias:
    """Every word is `value` more than the address."""
    return lambda column: np.full(len(column.raw), value, np.uint32)


def flags_in(bits: int) -> Bias:
    """The bits of the mask `bits` do not belong to the address."""
    return lambda column: column.raw & np.uint32(bits)


@dataclass(frozen=True, slots=True)
class TableField:
    """One address word of an entry."""

    name: str
    """The field of the entry's dtype that holds it."""
    form: WordForm
    role: Role
    bias: Bias = no_bias
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
    present: dict[str, Mask]
    """For each field the entries that have an address in it."""

    def __len__(self) -> int:
        return len(self.entries)

    def target(self, field: str) -> U32:
        """The address that one field points at, for each entry."""
        return np.ascontiguousarray(self.words[field]["target_va"])

    def require(self, holds: Mask, reason: str, shown: U32 | None = None) -> None:
        """Refuse the layout if an entry does not hold, naming the first such entry."""
        if holds.all():
            return
        index = int(np.argmin(holds))
        value = "" if shown is None else f" ({int(shown[index]):#x})"
        wrong = 1 - np.count_nonzero(holds) / len(holds)
        raise self.refusal(f"entry {index} {reason}{value}", index, wrong)

    def require_code(self, field: str, length: int = 1) -> None:
        """Each `field`, where present, must point at `length` bytes of an executable section."""
        target = self.target(field)
        there = self.view.code.hold(target, length) | ~self.present[field]
        self.require(there, f"has its {field} address outside of the code", target)

    def require_own_code(self, field: str) -> None:
        """Each `field`, where present, must point into an executable section of the image: in a
        module not even at what the kernel supplies.
        """
        target = self.target(field)
        there = self.view.own_code.hold(target) | ~self.present[field]
        self.require(there, f"has its {field} address outside of the code", target)

    def require_data(self, field: str) -> None:
        """Each `field`, where present, must point into memory that the image occupies."""
        target = self.target(field)
        there = self.view.allocated.hold(target) | ~self.present[field]
        self.require(there, f"has its {field} address outside of the image", target)

    def ascends(self, field: str) -> Mask:
        """Which entries have a `field` that is not below that of the entry before."""
        target = self.target(field)
        result = np.ones(len(target), dtype=np.bool_)
        result[1:] = target[1:] >= target[:-1]
        return result

    def require_symbol(self, field: str) -> None:
        """Each entry's `field` must lie between the image's first and last address, included."""
        target = self.target(field)
        memory = self.view.allocated
        inside = (target >= memory.start_va.min()) & (target <= memory.end_va.max())
        self.require(inside, f"has its {field} address outside of the image", target)

    def refusal(self, reason: str, index: int = 0, wrong: float = 0) -> MalformedTable:
        """The error that names table, address and reason; `wrong` is the part of the
        entries that do not fit.
        """
        place = f"{self.start_va + index * self.entries.dtype.itemsize:#x}"
        return Misfit(self.view.image.name, place, f"{self.name.value}: {reason}", wrong)


class Misfit(MalformedTable):
    """A table does not have one layout, as a part of its entries tells."""

    def __init__(self, file: str, place: str, message: str, wrong: float) -> None:
        super().__init__(message, file=file, place=place)
        self.wrong = wrong


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


Ordering = Callable[[Draft], Order]
"""The meaning of the order of the entries of one table."""


def kept(draft: Draft) -> Order:
    """Entries stay where they are."""
    return Order.KEPT


def named(draft: Draft) -> Order:
    """Data elsewhere counts on the entries' ranks."""
    return Order.NAMED


def sorted_by(field: str) -> Ordering:
    """A table that was stored in the order of `field` is kept in it; another is sorted at boot."""
    return lambda draft: Order.SORTED if draft.ascends(field).all() else Order.KEPT


@dataclass(frozen=True, slots=True)
class TableLayout:
    """One way in which kernels have stored a table."""

    name: str
    """Shown in reports: size and fields of an entry, kernel versions as far as known."""
    entry: np.dtype
    fields: tuple[TableField, ...]
    """In the order of the entry's bytes."""
    check: Callable[[Draft], None]
    """Raises MalformedTable (`Draft.require`) unless every entry makes sense."""
    places: Callable[[Draft], np.ndarray] = no_places
    order: Ordering = kept
    base: Callable[[ImageView], int] = no_base
    lacks_len: int = 0
    """So many bytes of filling may be missing at the end of the last entry."""

    def read(self, view: ImageView, name: TableName, extent: Range) -> Table:
        """The table at `extent` under this layout. Raises MalformedTable if it does not fit."""
        entry_len = self.entry.itemsize
        if extent.is_section and any(field.form is not WordForm.VALUE for field in self.fields):
            extent = _without_filling(view, extent, entry_len)
        data = view.image.read(extent.start_va, extent.end_va - extent.start_va)
        if -len(data) % entry_len > self.lacks_len:
            message = f"{name.value}: {len(data)} bytes are no multiple of the entry's {entry_len}"
            raise Misfit(view.image.name, f"{extent.start_va:#x}", message, 1)
        entries = np.frombuffer(data + bytes(-len(data) % entry_len), dtype=self.entry)
        base_va = self.base(view)
        read = [
            self._words(view, field, entries, extent.start_va, base_va) for field in self.fields
        ]
        draft = Draft(
            view,
            name,
            extent.start_va,
            entries,
            base_va,
            {field.name: words for field, (words, _) in zip(self.fields, read, strict=True)},
            {field.name: there for field, (_, there) in zip(self.fields, read, strict=True)},
        )
        self.check(draft)
        order = self.order(draft)
        return Table(
            name=name,
            layout=self.name,
            start_va=extent.start_va,
            end_va=extent.end_va,
            entries=entries,
            words=_interleave(read),
            places=self.places(draft),
            order=Order.KEPT if view.is_module and order is Order.SORTED else order,
            base_va=base_va,
            in_code=bool(view.code.hold(np.array([extent.start_va], np.uint32))[0]),
        )

    def _words(
        self, view: ImageView, field: TableField, entries: np.ndarray, start_va: int, base_va: int
    ) -> tuple[np.ndarray, Mask]:
        """All words of one field, and which of them hold an address."""
        assert self.entry.fields is not None
        column = Column(view, entries, entries[field.name].astype(np.uint32))
        words = np.zeros(len(entries), WORD)
        first_va = start_va + self.entry.fields[field.name][1]
        words["va"] = first_va + np.arange(len(entries), dtype=np.int64) * self.entry.itemsize
        words["form"], words["role"] = field.form, field.role
        words["bias"] = field.bias(column)
        words["target_va"] = column.raw - words["bias"] + origin(words, base_va)
        return words, field.present(column)


def _without_filling(view: ImageView, extent: Range, entry_len: int) -> Range:
    """A section without entries of zeros at its end: linker scripts fill some up to a page."""
    data = view.image.read(extent.start_va, extent.end_va - extent.start_va).rstrip(b"\0")
    used_len = -(-len(data) // entry_len) * entry_len
    return extent._replace(end_va=min(extent.end_va, extent.start_va + used_len))


def origin(words: np.ndarray, base_va: int) -> U32:
    """The address that each word's address counts from, by its form."""
    form = words["form"]
    whole = (form == WordForm.ABSOLUTE) | (form == WordForm.VALUE)
    result = np.where(whole, 0, words["va"]).astype(np.uint32)
    result[(form == WordForm.BRANCH) | (form == WordForm.COPIED_BRANCH)] += np.uint32(4)
    result[(form == WordForm.BASE_RELATIVE) | (form == WordForm.PHYSICAL)] = base_va
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
    layouts: tuple[TableLayout, ...]

    def parse(self, view: ImageView) -> Table | None:
        """The table in this image, None if it has none.

        Layouts that read the same words and places are one. Raises MalformedTable if the table
        is there and fits no layout, or several that differ.
        """
        extent = self.locate(view.image)
        if extent is None or (extent.is_section and not _holds_any(view, extent)):
            return None
        fitting: list[Table] = []
        refusals: list[MalformedTable] = []
        for layout in self.layouts:
            try:
                fitting.append(layout.read(view, self.name, extent))
            except MalformedTable as refusal:
                refusals.append(refusal)
        if not fitting:
            # Damage hits few entries, a wrong layout most of them.
            raise min(refusals, key=lambda r: r.wrong if isinstance(r, Misfit) else 1)
        if not all(_same(fitting[0], other) for other in fitting[1:]):
            raise MalformedTable(
                f"{self.name.value}: fits {' and '.join(t.layout for t in fitting)} alike",
                file=view.image.name,
                place=f"{extent.start_va:#x}",
            )
        return fitting[0]


def _holds_any(view: ImageView, extent: Range) -> bool:
    return any(view.image.read(extent.start_va, extent.end_va - extent.start_va))


def _same(one: Table, other: Table) -> bool:
    """Whether two readings of a table give the same output."""
    return (
        np.array_equal(one.words, other.words)
        and np.array_equal(one.places, other.places)
        and (one.order, one.base_va) == (other.order, other.base_va)
    )

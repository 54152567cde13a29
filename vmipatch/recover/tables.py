# SPDX-License-Identifier: MIT
"""Where are the tables that only symbols bounded? In the longest run of entries that are valid.

Tables with a section of their own are found by its name. Of the others, those matter that name
code by its distance, or places that the kernel patches. A run is cut where an entry does not
hold, and then read by the table's own layout, which checks it once more as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vmipatch.errors import MalformedTable
from vmipatch.image.elf import ElfImage
from vmipatch.image.types import Section
from vmipatch.tables.entry_stubs import EARLY_STUBS, IRQ_STUBS, SPURIOUS_STUBS
from vmipatch.tables.initcalls import INITCALLS
from vmipatch.tables.jump_table import JUMP_TABLE
from vmipatch.tables.layout import Column, TableKind, TableLayout
from vmipatch.tables.locate import Range
from vmipatch.tables.mcount import MCOUNT
from vmipatch.tables.nops import CALL, JMP, JMP_SHORT, NOP2, NOP5, any_of
from vmipatch.tables.static_calls import STATIC_CALLS, TRAMPOLINE_LEN, UD1
from vmipatch.tables.table import Role, WordForm
from vmipatch.tables.view import ImageView

I64 = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
WORD_LEN = 4


@dataclass(frozen=True, slots=True)
class Bounded:
    """A table that the linker script puts between two symbols."""

    kind: TableKind
    start: str
    stop: str
    fewest: int = 2
    """Entries of which a run must consist. Two words that are the distance to some function may be
    chance; two places that the kernel patches, with all that belongs to them, are not."""
    distances_only: bool = False
    """Absolute words of it need no table: the relocation list has them."""

    def wants(self, layout: TableLayout) -> bool:
        """Whether a table of that layout has to be found."""
        relative = all(field.form is WordForm.RELATIVE for field in layout.fields)
        return relative or not self.distances_only


BOUNDED = (
    Bounded(JUMP_TABLE, "__start___jump_table", "__stop___jump_table"),
    Bounded(MCOUNT, "__start_mcount_loc", "__stop_mcount_loc"),
    # Those of consoles stand right after them and are alike: one run holds both.
    Bounded(INITCALLS, "__initcall_start", "__initcall_end", fewest=8, distances_only=True),
)
STUBS = (
    (IRQ_STUBS, "irq_entries_start"),
    (SPURIOUS_STUBS, "spurious_entries_start"),
    (EARLY_STUBS, "early_idt_handler_array"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """The facts known of an image before its tables are."""

    image: ElfImage
    relocs: I64
    """Places of absolute words, ascending."""
    functions: I64
    """Addresses of functions and labels, ascending."""
    kallsyms: Range
    """Words of which are distances to functions, and no table that is looked for."""


def find_bounds(known: Known) -> dict[str, int]:
    """Addresses of the boundary symbols of every table that was found."""
    view = ImageView.of(known.image)
    result: dict[str, int] = {}
    for table in BOUNDED:
        layouts = [each for each in table.kind.layouts if table.wants(each)]
        runs = [run for layout in layouts for run in _runs(known, view, table, layout)]
        best = max(runs, key=lambda run: run.end_va - run.start_va, default=None)
        if best is not None:
            result[table.start], result[table.stop] = best.start_va, best.end_va
    calls = _static_calls(known.image, view)
    if calls is not None:
        result["__static_call_text_start"] = calls.start_va
        result["__static_call_text_end"] = calls.end_va
    return result


def stub_sizes(known: Known, addresses: dict[str, int]) -> dict[str, int]:
    """Bytes of each array of entry stubs whose name is known: as far as stubs are valid."""
    view = ImageView.of(known.image)
    sizes: dict[str, int] = {}
    for kind, name in STUBS:
        start_va = addresses.get(name)
        if start_va is None:
            continue
        following = known.functions[np.searchsorted(known.functions, start_va, "right") :][:1]
        room = int(following[0]) - start_va if len(following) else 0
        size = max(_valid_len(view, kind, layout, start_va, room) for layout in kind.layouts)
        if size:
            sizes[name] = size
    return sizes


def _valid_len(
    view: ImageView, kind: TableKind, layout: TableLayout, start_va: int, room: int
) -> int:
    """Bytes of the longest array of `layout` at `start_va` that is valid and fits into `room`."""
    valid = 0
    for size in range(layout.entry.itemsize, room + 1, layout.entry.itemsize):
        try:
            layout.read(view, kind.name, Range(start_va, start_va + size))
        except InputErrors:
            break
        valid = size
    return valid


InputErrors = (MalformedTable, ValueError)


def _runs(known: Known, view: ImageView, table: Bounded, layout: TableLayout) -> Iterator[Range]:
    """Valid runs of entries in data, the longest of each section."""
    stride = layout.entry.itemsize
    for section in known.image.allocated_sections:
        if section.is_exec or not section.has_bytes or section.size < stride:
            continue
        good = _good_entries(known, view, section, layout)
        for start, count in sorted(_chains(good, stride), key=lambda chain: -chain[1])[:4]:
            found = _trimmed(view, table, layout, section.va + start, count)
            if found is not None:
                yield found
                break


def _good_entries(known: Known, view: ImageView, section: Section, layout: TableLayout) -> Flags:
    """At which words of the section an entry might begin, by each of its fields alone."""
    stride = layout.entry.itemsize
    count = (section.size - stride) // WORD_LEN + 1
    starts = section.va + WORD_LEN * np.arange(count, dtype=np.int64)
    outside = (starts + stride <= known.kallsyms.start_va) | (starts >= known.kallsyms.end_va)
    listed = np.zeros(section.size // WORD_LEN, np.bool_)
    inside = known.relocs[(known.relocs >= section.va) & (known.relocs < section.end_va)]
    listed[(inside - section.va)[(inside - section.va) % WORD_LEN == 0] // WORD_LEN] = True
    words = known.image.words(section.va, section.va + section.size // WORD_LEN * WORD_LEN)
    good = outside.copy()
    assert layout.entry.fields is not None
    for field in layout.fields:
        off = layout.entry.fields[field.name][1]
        place = starts + off
        first = off // WORD_LEN
        raw = words[first : first + count].astype(np.int64)
        in_list = listed[first : first + count]
        good &= in_list if field.form is WordForm.ABSOLUTE else ~in_list
        base = np.where(field.form is WordForm.ABSOLUTE, 0, place)
        words32 = raw.astype(np.uint32)
        bias = field.bias(Column(view, np.zeros(0, layout.entry), words32)).astype(np.int64)
        target = ((raw - bias + base) & 0xFFFFFFFF).astype(np.uint32)
        some = np.flatnonzero(good)
        good[some] = _plausible(known, view, field.role, target[some])
    return good


def _plausible(known: Known, view: ImageView, role: Role, target: npt.NDArray[np.uint32]) -> Flags:
    """Which targets a field of that role may have."""
    if role is Role.DATA:
        return np.asarray(view.allocated.hold(target))
    inside = np.asarray(view.code.hold(target))
    if role is Role.FUNCTION:
        return inside & _among(known.functions, target)
    if role is Role.INSTRUCTION:
        code = view.bytes_at(target, 5)
        known_op = np.isin(code[:, 0], (CALL, JMP, JMP_SHORT))
        return np.asarray(inside & (known_op | any_of(code, NOP5) | any_of(code, NOP2)))
    return inside


def _among(ascending: I64, values: npt.NDArray[np.uint32]) -> Flags:
    """Which `values` are in the ascending array."""
    if not len(ascending):
        return np.zeros(len(values), np.bool_)
    at = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    return np.asarray(ascending[at] == values)


def _chains(good: Flags, stride: int) -> Iterator[tuple[int, int]]:
    """Byte offset and number of entries of each run of good entries `stride` bytes apart."""
    step = stride // WORD_LEN
    for phase in range(step):
        edges = np.diff(np.concatenate(([0], good[phase::step].view(np.int8), [0])))
        begins, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
        for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
            if end > begin:
                yield (begin * step + phase) * WORD_LEN, end - begin


def _trimmed(
    view: ImageView, table: Bounded, layout: TableLayout, start_va: int, count: int
) -> Range | None:
    """The run without entries at its ends that the layout refuses; None if it refuses more."""
    stride = layout.entry.itemsize
    for _ in range(8):
        if count < table.fewest:
            return None
        extent = Range(start_va, start_va + count * stride)
        try:
            layout.read(view, table.kind.name, extent)
            return extent
        except InputErrors as refusal:
            at = getattr(refusal, "place", None)
            index = (int(at, 16) - start_va) // stride if at else 0
        # What is longer on one side of the refused entry goes on.
        if index < count - index:
            start_va, count = start_va + max(index, 1) * stride, count - max(index, 1)
        else:
            count = index
    return None


def _static_calls(image: ElfImage, view: ImageView) -> Range | None:
    """The run of trampolines in code: 8 bytes each, told by their signature."""
    best: Range | None = None
    for section in image.executable_sections:
        data = np.frombuffer(image.section_bytes(section), np.uint8)
        whole = len(data) // TRAMPOLINE_LEN * TRAMPOLINE_LEN
        first = -section.va % TRAMPOLINE_LEN
        entries = data[first : first + (whole - first) // TRAMPOLINE_LEN * TRAMPOLINE_LEN]
        signed = any_of(entries.reshape(-1, TRAMPOLINE_LEN)[:, 5:], (UD1, b"SCT"))
        edges = np.diff(np.concatenate(([0], signed.view(np.int8), [0])))
        begins, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
        for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
            start_va = section.va + first + begin * TRAMPOLINE_LEN
            extent = Range(start_va, start_va + (end - begin) * TRAMPOLINE_LEN)
            try:
                STATIC_CALLS.layouts[0].read(view, STATIC_CALLS.name, extent)
            except InputErrors:
                continue
            if best is None or extent.end_va - extent.start_va > best.end_va - best.start_va:
                best = extent
    return best

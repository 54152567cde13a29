# SPDX-License-Identifier: MIT
"""Do functions that may be entered by computed addresses keep their distances and alignments?

No reference says that arch/x86/kvm/emulate.c (4.17 to 6.1) adds multiples of 4, 8 or 16 to the
address of `em_setcc` or `em_add`. The original's symbols say where that may be: three functions in
a row, of which the first has another name, too, or lies with the two others in a function.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from vmipatch.image.elf import ElfImage
from vmipatch.image.relocations import R_386_32, Relocations
from vmipatch.image.symbols import STT_FUNC, STT_NOTYPE
from vmipatch.tables.table import TableName, Tables
from vmipatch.verify.static.comparison import Comparison, judges
from vmipatch.verify.static.images import NOWHERE, Images
from vmipatch.verify.static.rules import COMPUTED_ENTRY
from vmipatch.verify.static.side import I64, Side
from vmipatch.verify.static.verdict import Report

ALIGNMENTS = (64, 32, 16, 8, 4)
"""Of entries; what is aligned to more is aligned to a cache line by accident."""
STRIDES = ALIGNMENTS[1:]


@judges(COMPUTED_ENTRY)
def check_entries(comparison: Comparison) -> None:
    """Every entry of every row is as far from the first as it was, and aligned as it was."""
    for row in entry_rows(comparison):
        comparison.report.counts["entries at fixed distances"] += len(row)
        _check_row(row, comparison.images, comparison.report)


def entry_rows(comparison: Comparison) -> Iterator[list[int]]:
    """Addresses of the original's functions, ascending, that may be entered so: row by row."""
    original = comparison.original
    known = _referred(original, comparison.left, comparison.tables)
    table = original.symbols
    labels = table.entries[~table.is_local_label]
    for section in original.executable_sections:
        yield from _rows(labels[labels["shndx"] == section.index], section.va, known)


def _referred(original: ElfImage, left: Side, tables: Tables) -> set[int]:
    """Targets of branches and relocated words, and what static calls go through; but not those of
    the exception table and of distances in code: an entry's first instruction may fault.
    """
    found = set(left.linked_targets(np.flatnonzero(left.widths > 0)).tolist())
    found.update(tables.places(TableName.STATIC_CALLS)["va"].tolist())
    traps = tables.get(TableName.EX_TABLE)
    faulting = range(traps.start_va, traps.end_va) if traps else range(0)
    words = Relocations.of(original).entries
    va, absolute = words["va"].astype(np.int64), words["kind"] == R_386_32
    told = (absolute | (left.over(va) < 0)) & ((va < faulting.start) | (va >= faulting.stop))
    values = words["value"].astype(np.int64) + np.where(absolute, 0, va)
    found.update((values[told] & 0xFFFFFFFF).tolist())
    return found


def _rows(symbols: np.ndarray, section_va: int, known: set[int]) -> Iterator[list[int]]:
    """Addresses of each row among one section's `symbols`: the first may hold the others.

    Nothing refers to at least one of the others: they are not all `known`. Labels at the start of
    the section are its own names.
    """
    kinds = symbols["info"] & 15
    symbols = symbols[(kinds == STT_FUNC) | (kinds == STT_NOTYPE) & (symbols["value"] > section_va)]
    functions = symbols[symbols["info"] & 15 == STT_FUNC]
    names = Counter(symbols["value"].tolist())
    around = functions["value"].astype(np.int64), functions["size"].astype(np.int64)
    vas = sorted(set(around[0].tolist()))
    row: list[int] = []
    for low, high in [*pairwise(vas), (0, 0)]:
        stride = high - low
        if row and low == row[-1] and stride == row[-1] - row[-2]:
            row.append(high)
            continue
        if not known.issuperset(row[1:]):
            yield from _told(row, names, around)
        is_row = stride in STRIDES and low % stride == 0
        row = [low, high] if is_row else []


def _told(row: list[int], names: Counter[int], around: tuple[I64, I64]) -> Iterator[list[int]]:
    """The part of a row of functions at one distance that counts as entries, if one does.

    `around` are the addresses and sizes of the functions that may hold it.
    """
    start, size = around
    for index, (va, third) in enumerate(zip(row, row[2:], strict=False)):
        holders = start[(start <= va) & (third < start + size)]
        if len(holders):
            yield sorted({int(holders.max()), *row[index:]})
            return
        if names[va] > 1:
            yield row[index:]
            return


def _check_row(row: list[int], images: Images, report: Report) -> None:
    """Findings for entries that are lost, nearer, farther, or less aligned."""
    new = images(np.array(row, np.int64)).tolist()
    for was, now in zip(row, new, strict=True):
        if now == NOWHERE or now - new[0] != was - row[0]:
            distance = "lost" if now == NOWHERE else f"{now - new[0]} bytes after the first entry"
            message = f"{was:#x} is {distance}, {row[0]:#x}, and was {was - row[0]}"
            report.add(COMPUTED_ENTRY, max(now, 0), message)
            return
    for was, now in zip(row, new, strict=True):
        kept = next((unit for unit in ALIGNMENTS if was % unit == 0), 1)
        if now % kept:
            message = f"{was:#x} is at {now:#x}, no multiple of {kept} as it was"
            report.add(COMPUTED_ENTRY, now, message)
            return

# SPDX-License-Identifier: MIT
"""Does code that was aligned on purpose stay aligned?

A compiler aligns functions to 16 bytes or less, and what it aligned to 16 is aligned to more by
accident in every second case. Sixteen bytes of filler in front of a function or label, however,
were not needed for that: somebody asked for more, a cache line or a page. A label of assembly or of
a linker script that begins a page, and is not a function, marks one.
"""

from __future__ import annotations

import numpy as np

from vmipatch.image.symbols import SHN_ABS, STT_FUNC, STT_NOTYPE
from vmipatch.isa.second import Filler
from vmipatch.verify.static.comparison import Comparison, judges
from vmipatch.verify.static.images import NOWHERE
from vmipatch.verify.static.rules import ALIGNMENT
from vmipatch.verify.static.side import I64

FUNCTION_ALIGN = 16
PAGE = 4096
MOST = 1 << 21
"""Two megabytes, what a large page maps."""


@judges(ALIGNMENT)
def check_alignments(comparison: Comparison) -> None:
    """Every address that has an alignment on purpose has an image with the same."""
    vas, units = purposely_aligned(comparison)
    new = comparison.images(vas)
    comparison.report.counts["aligned addresses"] += len(vas)
    for i in np.flatnonzero((new != NOWHERE) & (new % units != 0)).tolist():
        message = f"{vas[i]:#x}, a multiple of {units[i]:#x}, is at {new[i]:#x}, which is not one"
        comparison.report.add(ALIGNMENT, int(new[i]), message)


def purposely_aligned(comparison: Comparison) -> tuple[I64, I64]:
    """Addresses of the original's code, and the power of two that each is a multiple of."""
    table = comparison.original.symbols
    entries = table.entries
    kinds, shndx = entries["info"] & 15, entries["shndx"]
    code = [s.index for s in comparison.left.sections]
    here = np.isin(shndx, code) & (shndx < SHN_ABS) & ~table.is_local_label
    values = entries["value"].astype(np.int64)
    labels = values[here & (kinds == STT_NOTYPE)]
    named = np.unique(values[here & np.isin(kinds, (STT_NOTYPE, STT_FUNC))])
    named = named[comparison.left.find(named) >= 0]
    units = _shown_by_filler(comparison, named)
    pages = np.isin(named, labels) & (named % PAGE == 0)
    units = np.where(pages, np.maximum(units, PAGE), units)
    kept = comparison.code.kept.aligned
    vas = np.concatenate([named[units > FUNCTION_ALIGN], np.array(list(kept), np.int64)])
    every = np.concatenate([units[units > FUNCTION_ALIGN], np.array(list(kept.values()), np.int64)])
    return vas, every


def _shown_by_filler(comparison: Comparison, named: I64) -> I64:
    """The alignment that the filler in front of each address was made for, 1 if any serves."""
    side = comparison.left
    filler = np.isin(side.fillers, (Filler.NOP, Filler.INT3))
    runs = np.flatnonzero(np.diff(np.concatenate(([0], filler.view(np.int8), [0]))))
    start, after = runs[::2], runs[1::2]
    end_va = side.starts[after - 1] + side.lens[after - 1]
    length = end_va - side.starts[start]
    at = np.minimum(np.searchsorted(end_va, named), max(len(end_va) - 1, 0))
    if not len(end_va):
        return np.ones(len(named), np.int64)
    length = np.where(end_va[at] == named, length[at], 0)
    unit = np.ones(len(named), np.int64)
    while np.any(larger := (unit <= length) & (unit < MOST)):
        unit[larger] *= 2
    while np.any(smaller := named % unit != 0):
        unit[smaller] //= 2
    return np.where(length < FUNCTION_ALIGN, 1, unit)

# SPDX-License-Identifier: MIT
"""Does filler become longer by no more than an alignment asks for?

A rewriter may put filler where code moved. It takes what follows back to its old place, or on to
the alignment that it had: its own, in a module that of the section, and in front of functions that
computed addresses enter that of the most aligned of them.
"""

from __future__ import annotations

import numpy as np

from vmipatch.image.module import is_linked_module
from vmipatch.isa.second import Filler
from vmipatch.verify.static.comparison import Comparison, judges
from vmipatch.verify.static.entries import ALIGNMENTS, entry_rows
from vmipatch.verify.static.gaps import PairedGap
from vmipatch.verify.static.outline import TRAMPOLINES
from vmipatch.verify.static.rules import PADDING_CHANGED
from vmipatch.verify.static.side import Side

LARGE_PAGE = 1 << 21
"""The largest alignment that counts."""
MODULE_ALIGN = 2
"""Code of a module keeps that alignment in sections that have none."""


@judges(PADDING_CHANGED)
def check_growth(comparison: Comparison) -> None:
    """Report filler that is longer than it may be (VP003)."""
    suspects = [
        gap
        for gap in comparison.fillers.gaps
        if (by := _growth(comparison, gap)) > 0 and by >= _unit(comparison, gap)
    ]
    arrays = _alignments_of_arrays(comparison) if suspects else {}
    for gap in suspects:
        by, unit = _growth(comparison, gap), _unit(comparison, gap)
        unit = max(unit, arrays.get(_after_fill(comparison.left, gap.o_end), 1))
        if by >= unit:
            message = f"{by} bytes of filler were put in front of a multiple of {unit:#x}"
            comparison.report.add(PADDING_CHANGED, gap.p_va, message)


def _growth(comparison: Comparison, gap: PairedGap) -> int:
    """By how many bytes the gap became longer; 0 if what follows is at its old place at most."""
    section = comparison.left.section_of(gap.o_end - 1)
    if section is None or section.name == TRAMPOLINES:
        return 0
    now = comparison.output.sections[section.index]
    if gap.p_end - now.va <= gap.o_end - section.va:
        return 0
    return (gap.p_end - gap.p_va) - (gap.o_end - gap.o_va)


def _unit(comparison: Comparison, gap: PairedGap) -> int:
    """The alignment that the gap's end, or what the linker's filler there ends at, had."""
    after_va = _after_fill(comparison.left, gap.o_end)
    unit = min(after_va & -after_va, LARGE_PAGE)
    section = comparison.left.section_of(gap.o_end - 1)
    if section is not None and is_linked_module(comparison.original):
        unit = max(unit, section.align, MODULE_ALIGN)
    return unit


def _after_fill(left: Side, va: int) -> int:
    """Where what a linker put in a gap from `va` on ends."""
    at = int(np.searchsorted(left.starts, va))
    while at < len(left) and left.fillers[at] == Filler.LINK_FILL and left.starts[at] == va:
        va, at = left.end_va(at), at + 1
    return va


def _alignments_of_arrays(comparison: Comparison) -> dict[int, int]:
    """For each row of entries, or several that share one, its start and largest alignment."""
    found: dict[int, int] = {}
    start_va, last_va = 0, -1
    for row in sorted(entry_rows(comparison)):
        unit = max(next(unit for unit in (*ALIGNMENTS, 1) if va % unit == 0) for va in row)
        if row[0] > last_va:
            start_va = row[0]
        last_va = max(last_va, row[-1])
        found[start_va] = max(unit, found.get(start_va, 1))
    return found

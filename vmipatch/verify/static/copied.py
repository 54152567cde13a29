# SPDX-License-Identifier: MIT
"""Do routines that the kernel copies keep their length and their distances?

Such a routine computes addresses from its own: no branch in it becomes near, and filler in it stays
as it is. Filler that runs over an end of the routine may change its length outside of it.
"""

from __future__ import annotations

from collections.abc import Iterator

from vmipatch.verify.static.comparison import Comparison
from vmipatch.verify.static.fillers import bytes_between
from vmipatch.verify.static.gaps import PairedGap
from vmipatch.verify.static.reasons import NativeReason
from vmipatch.verify.static.routines import copied_ranges
from vmipatch.verify.static.rules import ZONE


def copied_code(comparison: Comparison) -> list[tuple[int, int]]:
    """The routines of the original that are copied, and the ranges that `--keep` names."""
    return [*copied_ranges(comparison.original), *comparison.code.kept.named]


def check_copied(comparison: Comparison) -> None:
    """Report what has another length in code that is copied (VP086)."""
    left, o, p = comparison.left, comparison.paired.o, comparison.paired.p
    widened = o[(left.widths[o] == 1) & (comparison.right.widths[p] == 4)]
    branches = left.starts[widened]
    for start_va, end_va in copied_code(comparison):
        inside = branches[(branches >= start_va) & (branches < end_va)].tolist()
        for va in (*inside, *_changed_gaps(comparison, start_va, end_va)):
            message = f"what was at {va:#x} has another length, and {NativeReason.COPIED.value}"
            comparison.report.add(ZONE, comparison.images.one(va), message)


def _changed_gaps(comparison: Comparison, start_va: int, end_va: int) -> Iterator[int]:
    """Starts of the filler that is not what it was inside of [start, end)."""
    for gap in comparison.fillers.gaps:
        overlaps = gap.o_va < end_va and gap.o_end > start_va
        if overlaps and not _is_kept(comparison, gap, start_va, end_va):
            yield gap.o_va


def _is_kept(comparison: Comparison, gap: PairedGap, start_va: int, end_va: int) -> bool:
    """Whether the part of the gap in [start, end) has its bytes, where its neighbour in the routine
    has them: the instruction before the gap, or the one after it.
    """
    starts_before, ends_after = start_va < gap.o_va, gap.o_end < end_va
    if starts_before and ends_after:
        return gap.o_end - gap.o_va == gap.p_end - gap.p_va
    begin, end = max(gap.o_va, start_va), min(gap.o_end, end_va)
    moved = gap.p_end - gap.o_end if ends_after else gap.p_va - gap.o_va
    if begin + moved < gap.p_va or end + moved > gap.p_end:
        return False
    mine = bytes_between(comparison.left, begin, end)
    return mine == bytes_between(comparison.right, begin + moved, end + moved)

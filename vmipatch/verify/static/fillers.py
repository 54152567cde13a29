# SPDX-License-Identifier: MIT
"""Is the filler between instructions what it was, or what it may become?

Filler inside a function may be executed, patched or counted on, and stays as it is. Filler in
front of a symbol may change its length, if nothing leads into it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vmipatch.image.ascending import among, distinct
from vmipatch.image.symbols import SHN_ABS
from vmipatch.isa.second import Filler, Leaves
from vmipatch.verify.static.code import CodePair
from vmipatch.verify.static.gaps import PairedGap, find_gaps, offsets
from vmipatch.verify.static.matching import Match
from vmipatch.verify.static.pads import nops, refilled
from vmipatch.verify.static.rules import PADDING_CHANGED
from vmipatch.verify.static.side import I64, Flags, Side, ranges
from vmipatch.verify.static.verdict import Report

STOPS = (Leaves.STOP, Leaves.JUMP)


@dataclass(frozen=True, slots=True, eq=False)
class KeptFillers:
    """Filler of the original that the output has too: starts, and how far they moved."""

    starts: I64
    deltas: I64
    gaps: list[PairedGap]
    """The gaps whose length changed."""


def compare_fillers(code: CodePair, paired: Match, anchored: Flags, report: Report) -> KeptFillers:
    """Compare all filler; reports what may not change (VP003).

    `anchored` tells to which instructions of the original something points.
    """
    original = code.left
    gaps = find_gaps(code, paired)
    same = gaps.o_end - gaps.o_va
    changed: list[PairedGap] = []
    entries = original.image.symbols.entries
    named = distinct(entries["value"][entries["shndx"] < SHN_ABS].astype(np.int64))
    judge = _Judge(code, paired, anchored, named, report)
    for index in np.flatnonzero(~gaps.unchanged(original, code.right)).tolist():
        gap, length = gaps.one(index), int(same[index])
        same[index] = judge.common(gap)
        if same[index] != length or length != gap.p_end - gap.p_va:
            changed.append(gap)
    begin = np.searchsorted(original.starts, gaps.o_va)
    count = np.searchsorted(original.starts, gaps.o_va + same) - begin
    starts = original.starts[ranges(begin, count)]
    distance = np.repeat(gaps.p_va - gaps.o_va, count.astype(np.intp))
    return KeptFillers(starts, distance, changed)


@dataclass(frozen=True, slots=True, eq=False)
class _Judge:
    """Decides how much of a gap's filler was kept, and whether the rest may have changed."""

    code: CodePair
    paired: Match
    anchored: Flags
    named: I64
    """Addresses that symbols name, ascending."""
    report: Report

    def common(self, gap: PairedGap) -> int:
        """How many bytes of the gap's filler are kept from its start."""
        original, output = self.code.left, self.code.right
        mine = bytes_between(original, gap.o_va, gap.o_end)
        theirs = bytes_between(output, gap.p_va, gap.p_end)
        if mine == theirs:
            return len(mine)
        if _holds_code(original, gap.o_va, gap.o_end) or _holds_code(output, gap.p_va, gap.p_end):
            return 0  # the instructions here could not be paired, which has been reported
        fixed = self._fixed(gap)
        if not gap.is_last:
            message = f"filler `{mine.hex(' ')}` inside a function became `{theirs.hex(' ')}`"
            self.report.add(PADDING_CHANGED, gap.p_va, message)
            return 0
        if mine[:fixed] != theirs[:fixed]:
            message = "filler changed to which something leads"
            self.report.add(PADDING_CHANGED, gap.p_va, message)
            return 0
        self._check_kind(gap, fixed, mine[fixed : fixed + 1] == b"\xcc")
        rest = mine[fixed:]
        given_way = mine[:fixed] + refilled(rest, len(theirs) - fixed)
        if theirs not in (given_way, mine + nops(len(theirs) - len(mine))):
            message = f"`{theirs[:16].hex(' ')}` is not the filler of {len(theirs)} bytes"
            self.report.add(PADDING_CHANGED, gap.p_va, message)
        return fixed

    def _fixed(self, gap: PairedGap) -> int:
        """Bytes of the gap up to the end of the last filler to which something points.

        A symbol does so as well: it may be the end of what a table or a copy names.
        """
        original = self.code.left
        begin, end = np.searchsorted(original.starts, (gap.o_va, gap.o_end))
        points = self.anchored[begin:end] | among(original.starts[begin:end], self.named)
        if not points.any():
            return 0
        last = int(begin + np.flatnonzero(points)[-1])
        return int(original.starts[last] + original.lens[last]) - gap.o_va

    def _check_kind(self, gap: PairedGap, fixed: int, was_int3: bool) -> None:
        """Filler that changed its length is still of the kind it has to be."""
        original, output = self.code.left, self.code.right
        begin, end = np.searchsorted(output.starts, (gap.p_va + fixed, gap.p_end))
        kinds = output.fillers[begin:end]
        before = gap.after >= 0 and not fixed
        stops = before and original.leaves[self.paired.o[gap.after]] in STOPS
        if stops and was_int3 and not (len(kinds) and kinds[0] == Filler.INT3):
            self.report.add(PADDING_CHANGED, gap.p_va, "the int3 after a ret or jmp is gone")
        if not stops and not was_int3 and np.any(kinds == Filler.INT3):
            message = "int3 stands where control may run through nops"
            self.report.add(PADDING_CHANGED, gap.p_va, message)


def _holds_code(side: Side, start_va: int, end_va: int) -> bool:
    begin, end = np.searchsorted(side.starts, (start_va, end_va))
    fillers = side.fillers[begin:end]
    return bool(((fillers != Filler.NOP) & (fillers != Filler.INT3)).any())


def bytes_between(side: Side, start_va: int, end_va: int) -> bytes:
    """Bytes of one section of `side`; nothing if the range is empty."""
    if end_va <= start_va:
        return b""
    off = int(offsets(side, np.array([start_va], np.int64))[0])
    return side.image.data[off : off + end_va - start_va]

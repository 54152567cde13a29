# SPDX-License-Identifier: MIT
"""Is the filler between instructions what it was, or what it may become?

Filler inside a function may be executed, patched or counted on, and stays as it is. Filler in
front of a symbol may change its length, if nothing leads into it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vmipatch.isa.second import Filler, Leaves
from vmipatch.verify.static.bodies import Bodies
from vmipatch.verify.static.chunks import Chunks
from vmipatch.verify.static.matching import Match
from vmipatch.verify.static.rules import CHUNK_LOST, PADDING_CHANGED
from vmipatch.verify.static.side import I64, Flags, Side, ranges
from vmipatch.verify.static.verdict import Report

STOPS = (Leaves.STOP, Leaves.JUMP)


@dataclass(frozen=True, slots=True)
class Gap:
    """What lies between two paired instructions: [o_va, o_end) became [p_va, p_end)."""

    o_va: int
    o_end: int
    p_va: int
    p_end: int
    behind: int
    """The pair in front of the gap, -1 at the start of a chunk."""
    is_last: bool
    """Whether the chunk ends with the gap."""


@dataclass(frozen=True, slots=True, eq=False)
class _Gaps:
    """Many gaps, as parallel arrays."""

    o_va: I64
    o_end: I64
    p_va: I64
    p_end: I64
    behind: I64
    is_last: Flags

    def one(self, index: int) -> Gap:
        """One of them."""
        columns = (self.o_va, self.o_end, self.p_va, self.p_end, self.behind, self.is_last)
        return Gap(*(column[index].item() for column in columns))

    def unchanged(self, original: Side, output: Side) -> Flags:
        """Which gaps have the same bytes in both files."""
        count = self.o_end - self.o_va
        found: Flags = (count > 0) & (count == self.p_end - self.p_va)
        places = ((original, self.o_va), (output, self.p_va))
        offs = [_offsets(side, vas) for side, vas in places]
        for (side, _), off in zip(places, offs, strict=True):
            found &= (off >= 0) & (off + count <= len(side.octets))
        count = np.where(found, count, 0)
        mine, theirs = (
            side.octets[ranges(off, count)] for (side, _), off in zip(places, offs, strict=True)
        )
        found[np.repeat(np.arange(len(count)), count)[mine != theirs]] = False
        return found


@dataclass(frozen=True, slots=True, eq=False)
class KeptFillers:
    """Filler of the original that the output has too: starts, and how far they moved."""

    starts: I64
    deltas: I64
    gaps: list[Gap]
    """The gaps whose length changed."""


def check_fillers(
    chunks: Chunks,
    paired: Match,
    original: Side,
    output: Side,
    bodies: Bodies,
    anchored: Flags,
    report: Report,
) -> KeptFillers:
    """Compare all filler. `anchored` tells which instructions of the original are led to."""
    gaps = _gaps(chunks, paired, original, output, bodies)
    same = gaps.o_end - gaps.o_va
    changed: list[Gap] = []
    for index in np.flatnonzero(~gaps.unchanged(original, output)).tolist():
        gap, length = gaps.one(index), int(same[index])
        same[index] = _common(gap, original, output, anchored, paired, report)
        if same[index] != length or length != gap.p_end - gap.p_va:
            changed.append(gap)
    _check_sequence(chunks, paired, original, report)
    begin = np.searchsorted(original.starts, gaps.o_va)
    count = np.searchsorted(original.starts, gaps.o_va + same) - begin
    starts = original.starts[ranges(begin, count)]
    return KeptFillers(starts, np.repeat(gaps.p_va - gaps.o_va, count), changed)


def _gaps(chunks: Chunks, paired: Match, original: Side, output: Side, bodies: Bodies) -> _Gaps:
    """Every place between paired instructions where either side has filler."""
    first, end = paired.bounds[:-1], paired.bounds[1:]
    count = end - first
    # One gap before each instruction, and one more at the end of each chunk.
    at = np.repeat(np.arange(len(chunks)), count + 1)
    rank = np.arange(len(at)) - np.repeat(np.cumsum(count + 1) - (count + 1), count + 1)
    is_first, is_last = rank == 0, rank == count[at]
    behind = np.where(is_first, -1, first[at] + rank - 1)
    ahead = np.where(is_last, 0, first[at] + rank)
    o, p = (paired.o, paired.p) if len(paired.o) else (np.zeros(1, np.int64),) * 2
    o_va = np.where(is_first, chunks.o_va[at], original.ends[o[behind]])
    o_end = np.where(is_last, chunks.o_end[at], original.starts[o[ahead]])
    p_va = np.where(is_first, chunks.p_va[at], bodies.ends[p[behind]])
    p_end = np.where(is_last, chunks.p_end[at], bodies.begins[p[ahead]])
    which = np.flatnonzero((o_va != o_end) | (p_va != p_end))
    return _Gaps(*(c[which] for c in (o_va, o_end, p_va, p_end, behind, is_last)))


def _common(
    gap: Gap, original: Side, output: Side, anchored: Flags, paired: Match, report: Report
) -> int:
    """How many bytes of the gap's filler are kept from its start; reports what may not change."""
    mine = _bytes(original, gap.o_va, gap.o_end)
    theirs = _bytes(output, gap.p_va, gap.p_end)
    if mine == theirs:
        return len(mine)
    begin, end = np.searchsorted(original.starts, (gap.o_va, gap.o_end))
    if _holds_code(original, gap.o_va, gap.o_end) or _holds_code(output, gap.p_va, gap.p_end):
        return 0  # the instructions here could not be paired, which has been reported
    led_to = np.flatnonzero(anchored[begin:end])
    fixed = 0
    if len(led_to):
        last = int(begin + led_to[-1])
        fixed = int(original.starts[last] + original.lens[last]) - gap.o_va
    if not gap.is_last:
        message = f"filler `{mine.hex(' ')}` inside a function became `{theirs.hex(' ')}`"
        report.add(PADDING_CHANGED, gap.p_va, message)
        return 0
    if mine[:fixed] != theirs[:fixed]:
        report.add(PADDING_CHANGED, gap.p_va, "filler changed to which something leads")
        return 0
    _check_kind(gap, original, output, paired, fixed, mine, report)
    return fixed


def _check_kind(
    gap: Gap,
    original: Side,
    output: Side,
    paired: Match,
    fixed: int,
    mine: bytes,
    report: Report,
) -> None:
    """Filler that changed its length is still of the kind it has to be."""
    begin, end = np.searchsorted(output.starts, (gap.p_va + fixed, gap.p_end))
    kinds = output.fillers[begin:end]
    rest = mine[fixed:]
    stops = gap.behind >= 0 and not fixed and original.leaves[paired.o[gap.behind]] in STOPS
    if stops and rest[:1] == b"\xcc" and not (len(kinds) and kinds[0] == Filler.INT3):
        report.add(PADDING_CHANGED, gap.p_va, "the int3 behind a ret or jmp is gone")
    if not stops and rest[:1] != b"\xcc" and np.any(kinds == Filler.INT3):
        report.add(PADDING_CHANGED, gap.p_va, "int3 stands where control may run through nops")


def _holds_code(side: Side, start_va: int, end_va: int) -> bool:
    begin, end = np.searchsorted(side.starts, (start_va, end_va))
    return bool(np.any(~np.isin(side.fillers[begin:end], (Filler.NOP, Filler.INT3))))


def _check_sequence(chunks: Chunks, paired: Match, original: Side, report: Report) -> None:
    """Where control may run from one chunk into the next, the next still follows."""
    follows = np.ones(len(chunks), np.bool_)
    follows[:-1] = chunks.o_end[:-1] == chunks.o_va[1:]
    follows[-1] = True
    for c in np.flatnonzero(~follows).tolist():
        begin, end = int(paired.bounds[c]), int(paired.bounds[c + 1])
        if end == begin:
            continue
        last = int(paired.o[end - 1])
        ends_va = int(original.starts[last] + original.lens[last])
        barred = (
            ends_va < int(chunks.o_end[c]) and _bytes(original, ends_va, ends_va + 1) == b"\xcc"
        )
        at_end = any(int(chunks.o_end[c]) == s.end_va for s in original.sections)
        if original.leaves[last] not in STOPS and not barred and not at_end:
            report.add(
                CHUNK_LOST,
                int(chunks.p_va[c]),
                "the code that this one runs into no longer follows it",
            )


def _bytes(side: Side, start_va: int, end_va: int) -> bytes:
    """Bytes of one section of `side`; nothing if the range is empty."""
    if end_va <= start_va:
        return b""
    off = int(_offsets(side, np.array([start_va]))[0])
    return side.image.data[off : off + end_va - start_va]


def _offsets(side: Side, vas: I64) -> I64:
    """File offsets of addresses, which go on behind the last instruction before them."""
    index = np.searchsorted(side.starts, vas, side="right") - 1
    return side.offs[index] + vas - side.starts[index]

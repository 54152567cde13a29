# SPDX-License-Identifier: MIT
"""Where between paired instructions does either file have filler?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vmipatch.isa.second import Filler
from vmipatch.verify.static.code import CodePair
from vmipatch.verify.static.matching import Match
from vmipatch.verify.static.side import I32, I64, Flags, Side, ranges


@dataclass(frozen=True, slots=True)
class PairedGap:
    """The bytes between two paired instructions: [o_va, o_end) became [p_va, p_end)."""

    o_va: int
    o_end: int
    p_va: int
    p_end: int
    after: int
    """The pair in front of the gap, -1 at the start of a chunk."""
    is_last: bool
    """Whether the chunk ends with the gap, or with it and what a linker put there."""


@dataclass(frozen=True, slots=True, eq=False)
class Gaps:
    """Many gaps, as parallel arrays."""

    o_va: I64
    o_end: I64
    p_va: I64
    p_end: I64
    after: I32
    is_last: Flags

    def one(self, index: int) -> PairedGap:
        """One of them."""
        columns = (self.o_va, self.o_end, self.p_va, self.p_end, self.after, self.is_last)
        return PairedGap(*(column[index].item() for column in columns))

    def unchanged(self, original: Side, output: Side) -> Flags:
        """Which gaps have the same bytes in both files."""
        count = self.o_end - self.o_va
        found: Flags = (count > 0) & (count == self.p_end - self.p_va)
        places = ((original, self.o_va), (output, self.p_va))
        offs = [offsets(side, vas) for side, vas in places]
        for (side, _), off in zip(places, offs, strict=True):
            found &= (off >= 0) & (off + count <= len(side.octets))
        count = np.where(found, count, 0)
        mine, theirs = (
            side.octets[ranges(off, count)] for (side, _), off in zip(places, offs, strict=True)
        )
        found[np.repeat(np.arange(len(count)), count.astype(np.intp))[mine != theirs]] = False
        return found


def find_gaps(code: CodePair, paired: Match) -> Gaps:
    """Every place between paired instructions where either side has filler."""
    places = _Places.of(code, paired)
    every = np.arange(len(places.rank), dtype=np.int32)
    o_va, o_end = places.in_original(every)
    differs = o_va != o_end
    del o_va, o_end
    p_va, p_end = places.in_output(every)
    differs |= p_va != p_end
    del p_va, p_end
    which = every[differs]
    previous = places.previous(which)
    return Gaps(
        *places.in_original(which), *places.in_output(which), previous, places.ends_gap(which)
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Places:
    """The places before each paired instruction, and one more at the end of each chunk."""

    code: CodePair
    o: I32
    p: I32
    first: I32
    """For each chunk, the pair that it begins with."""
    count: I32
    """How many pairs it has."""
    at: I32
    """For each place, its chunk."""
    rank: I32
    """How many pairs of the chunk are in front of it."""

    @classmethod
    def of(cls, code: CodePair, paired: Match) -> _Places:
        """Those of two files."""
        first = paired.bounds[:-1].astype(np.int32)
        count = np.diff(paired.bounds).astype(np.int32)
        each = (count + 1).astype(np.intp)
        at = np.repeat(np.arange(len(count), dtype=np.int32), each)
        before = np.cumsum(each) - each
        rank = np.arange(len(at), dtype=np.int32)
        rank -= np.repeat(before.astype(np.int32), each)
        none = np.zeros(1, np.int32)
        o, p = (paired.o, paired.p) if len(paired.o) else (none, none)
        return cls(code, o, p, first, count, at, rank)

    def previous(self, which: I32) -> I32:
        """The pair in front of each, -1 at the start of a chunk."""
        pair = self.first[self.at[which]] + self.rank[which] - 1
        return np.where(self.rank[which] == 0, np.int32(-1), pair)

    def _is_last(self, which: I32) -> Flags:
        return np.asarray(self.rank[which] == self.count[self.at[which]])

    def _ahead(self, which: I32) -> I32:
        """The pair that follows each; any at the end of a chunk."""
        pair = self.first[self.at[which]] + self.rank[which]
        return np.where(self._is_last(which), np.int32(0), pair)

    def ends_gap(self, which: I32) -> Flags:
        """Whether the chunk ends with it. What a linker put in a gap runs to the chunk's end."""
        is_fill = self.code.left.fillers == Filler.LINK_FILL
        begins_fill = is_fill & ~np.insert(is_fill[:-1], 0, False)
        result: Flags = self._is_last(which) | begins_fill[self.o[self._ahead(which)]]
        return result

    def in_original(self, which: I32) -> tuple[I64, I64]:
        """Start and end of each in the original."""
        chunks, side = self.code.chunks, self.code.left
        before, ahead = self.o[self.previous(which)], self.o[self._ahead(which)]
        is_first, at = self.rank[which] == 0, self.at[which]
        start = np.where(is_first, chunks.o_va[at], side.starts[before] + side.lens[before])
        return start, np.where(self._is_last(which), chunks.o_end[at], side.starts[ahead])

    def in_output(self, which: I32) -> tuple[I64, I64]:
        """Start and end of each in the output, where bodies count with their padding."""
        chunks, bodies = self.code.chunks, self.code.bodies
        before, ahead = self.p[self.previous(which)], self.p[self._ahead(which)]
        is_first, at = self.rank[which] == 0, self.at[which]
        start = np.where(is_first, chunks.p_va[at], bodies.ends(before))
        return start, np.where(self._is_last(which), chunks.p_end[at], bodies.begins(ahead))


def offsets(side: Side, vas: I64) -> I64:
    """File offsets of addresses, which go on after the last instruction before them."""
    index = np.searchsorted(side.starts, vas, side="right") - 1
    return side.offs[index] + vas - side.starts[index]

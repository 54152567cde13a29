# SPDX-License-Identifier: MIT
"""Which instruction of the output is the image of which instruction of the original?

Filler apart, both sides of a chunk must hold the same instructions in the same order; the filler
between them is judged in `fillers`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vmipatch.isa.second import Filler
from vmipatch.verify.static.code import CodePair
from vmipatch.verify.static.rules import INSTRUCTION_CHANGED
from vmipatch.verify.static.side import I32, I64, Flags, Side, ranges
from vmipatch.verify.static.verdict import Report

LOST = -1
REDUNDANT_PREFIX = 0x3E
NEAR_OPCODE = {0xEB: b"\xe9", **{0x70 + c: bytes((0x0F, 0x80 + c)) for c in range(16)}}
"""The near form of each short branch, by its opcode."""


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """Instruction `o[i]` of the original became instruction `p[i]` of the output.

    Both hold every instruction but filler, chunk after chunk in the order of `Chunks`;
    `bounds[c]:bounds[c + 1]` are those of chunk c.
    """

    o: I32
    p: I32
    bounds: I64
    new_of: I32
    """For each instruction of the original the one it became, LOST if none."""
    old_of: I32
    """For each instruction of the output the one it was, LOST if none."""

    @classmethod
    def of(cls, code: CodePair, o: I64 | I32, p: I64 | I32, bounds: I64) -> Match:
        """A match with both directions."""
        o, p = o.astype(np.int32), p.astype(np.int32)
        new_of, old_of = (np.full(len(side), LOST, np.int32) for side in (code.left, code.right))
        new_of[o], old_of[p] = p, o
        return cls(o, p, bounds, new_of, old_of)


def match(code: CodePair, report: Report) -> Match:
    """Pair the instructions of both sides; reports chunks that do not hold the same (VP001)."""
    o, o_count = essentials(code.left, code.chunks.o_va, code.chunks.o_end)
    p, p_count = essentials(code.right, code.chunks.p_va, code.chunks.p_end)
    differs = np.flatnonzero(o_count != p_count)
    keep_o, keep_p = np.ones(len(o), np.bool_), np.ones(len(p), np.bool_)
    o_bounds = np.concatenate(([0], np.cumsum(o_count)))
    p_bounds = np.concatenate(([0], np.cumsum(p_count)))
    count = o_count.copy()
    for c in differs.tolist():
        mine, theirs = slice(*o_bounds[c : c + 2]), slice(*p_bounds[c : c + 2])
        stretch = _Stretch(code, c, o[mine], p[theirs])
        head, tail = stretch.agreement()
        keep_o[mine.start + head : mine.stop - tail] = False
        keep_p[theirs.start + head : theirs.stop - tail] = False
        count[c] = head + tail
        stretch.report_difference(head, report)
    bounds = np.concatenate(([0], np.cumsum(count)))
    return Match.of(code, o[keep_o], p[keep_p], bounds)


def essentials(side: Side, first: I64, end: I64) -> tuple[I64, I64]:
    """Indices of what is not filler between addresses first[c] and end[c], for each chunk c.

    What a linker put in gaps, and code of 16 bits, counts as well: it may not change.

    Returns all of them in chunk order, and how many each chunk has.
    """
    core = np.flatnonzero((side.fillers != Filler.NOP) & (side.fillers != Filler.INT3))
    begin = np.searchsorted(side.starts[core], first)
    following = np.searchsorted(side.starts[core], end)
    count = np.maximum(following - begin, 0)
    return core[ranges(begin, count)], count


@dataclass(frozen=True, slots=True, eq=False)
class _Stretch:
    """A chunk whose two sides have different numbers of instructions: `o` and `p`."""

    code: CodePair
    chunk: int
    o: I64
    p: I64

    def agreement(self) -> tuple[int, int]:
        """How many instructions agree from the front, and how many more from the back."""
        mine = [_token(self.code.left, i) for i in self.o.tolist()]
        theirs = [_token(self.code.right, i) for i in self.p.tolist()]
        shorter = min(len(mine), len(theirs))
        head = next((i for i in range(shorter) if mine[i] != theirs[i]), shorter)
        rest = shorter - head
        tail = next((i for i in range(rest) if mine[-1 - i] != theirs[-1 - i]), rest)
        return head, tail

    def report_difference(self, head: int, report: Report) -> None:
        """Report the first instruction that differs, after `head` that agree."""
        left, right, o, p = self.code.left, self.code.right, self.o, self.p
        lost = f"`{left.code(int(o[head])).hex(' ')}`" if head < len(o) else "nothing more"
        found = f"`{right.code(int(p[head])).hex(' ')}`" if head < len(p) else "nothing more"
        chunks = self.code.chunks
        before_o = int(left.ends[o[head - 1]]) if head else int(chunks.o_va[self.chunk])
        before_p = int(right.ends[p[head - 1]]) if head else int(chunks.p_va[self.chunk])
        va = int(right.starts[p[head]]) if head < len(p) else before_p
        if head < len(o):
            # An instruction that became filler is not at p[head], but where the lost one should be.
            va = min(va, before_p + int(left.starts[o[head]]) - before_o)
        message = f"{found} stands where {lost} should ({len(p)} instructions, were {len(o)})"
        report.add(INSTRUCTION_CHANGED, va, message)


def _token(side: Side, index: int) -> bytes:
    """The instruction without what may differ: prefixes of padding, words, displacements."""
    width = int(side.widths[index])
    code = masked(side.code(index), side.words_of(index))
    if not width:
        return code.lstrip(bytes((REDUNDANT_PREFIX,)))
    return near_form(code[: len(code) - width])


def masked(code: bytes, words: Flags) -> bytes:
    """`code` with zeros for its `words`, whose last byte is that of the last flag.

    An instruction that got prefixes has its words at the same distance from its end.
    """
    octets = np.frombuffer(code, np.uint8).copy()
    count = min(len(octets), len(words))
    octets[len(octets) - count :][words[len(words) - count :]] = 0
    return octets.tobytes()


def near_form(opcode: bytes) -> bytes:
    """The opcode of a direct branch (with prefixes), as the near branch has it."""
    if not opcode or opcode[-2:-1] == b"\x0f":
        return opcode
    return opcode[:-1] + NEAR_OPCODE.get(opcode[-1], opcode[-1:])

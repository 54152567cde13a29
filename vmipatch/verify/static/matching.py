# SPDX-License-Identifier: MIT
"""Which instruction of the output is the image of which instruction of the original?

Filler apart, both sides of a chunk must hold the same instructions in the same order; the filler
between them is judged in `fillers`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vmipatch.isa.second import Filler
from vmipatch.verify.static.bodies import Bodies
from vmipatch.verify.static.chunks import Chunks
from vmipatch.verify.static.rules import BYTE_UNACCOUNTED, INSTRUCTION_CHANGED, UNRECORDED
from vmipatch.verify.static.side import I64, Side, ranges
from vmipatch.verify.static.verdict import Report

REDUNDANT_PREFIX = 0x3E
NEAR_OPCODE = {0xEB: b"\xe9", **{0x70 + c: bytes((0x0F, 0x80 + c)) for c in range(16)}}
"""The near form of each short branch, by its opcode."""


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """Instruction `o[i]` of the original became instruction `p[i]` of the output.

    Both hold every instruction but filler, chunk after chunk in the order of `Chunks`;
    `bounds[c]:bounds[c + 1]` are those of chunk c.
    """

    o: I64
    p: I64
    bounds: I64


def match(chunks: Chunks, original: Side, output: Side, bodies: Bodies, report: Report) -> Match:
    """Pair the instructions of both sides and compare each pair."""
    paired = _pair(chunks, original, output, report)
    _compare(paired, original, output, bodies, report)
    report.counts["instructions"] += len(paired.o)
    return paired


def essentials(side: Side, first: I64, end: I64) -> tuple[I64, I64]:
    """Indices of what is not filler between addresses first[c] and end[c], for each chunk c.

    What a linker put in gaps, and code of 16 bits, counts as well: it may not change.

    Returns all of them in chunk order, and how many each chunk has.
    """
    core = np.flatnonzero((side.fillers != Filler.NOP) & (side.fillers != Filler.INT3))
    begin = np.searchsorted(side.starts[core], first)
    behind = np.searchsorted(side.starts[core], end)
    count = np.maximum(behind - begin, 0)
    return core[ranges(begin, count)], count


def _pair(chunks: Chunks, original: Side, output: Side, report: Report) -> Match:
    o, o_count = essentials(original, chunks.o_va, chunks.o_end)
    p, p_count = essentials(output, chunks.p_va, chunks.p_end)
    differs = np.flatnonzero(o_count != p_count)
    keep_o, keep_p = np.ones(len(o), np.bool_), np.ones(len(p), np.bool_)
    o_bounds = np.concatenate(([0], np.cumsum(o_count)))
    p_bounds = np.concatenate(([0], np.cumsum(p_count)))
    count = o_count.copy()
    for c in differs.tolist():
        mine, theirs = slice(*o_bounds[c : c + 2]), slice(*p_bounds[c : c + 2])
        head, tail = _agreement(original, o[mine], output, p[theirs])
        keep_o[mine.start + head : mine.stop - tail] = False
        keep_p[theirs.start + head : theirs.stop - tail] = False
        count[c] = head + tail
        _report_difference(report, original, o[mine], output, p[theirs], head, chunks, c)
    return Match(o[keep_o], p[keep_p], np.concatenate(([0], np.cumsum(count))))


def _agreement(original: Side, o: I64, output: Side, p: I64) -> tuple[int, int]:
    """How many instructions agree from the front, and how many more from the back."""
    mine = [_token(original, i) for i in o.tolist()]
    theirs = [_token(output, i) for i in p.tolist()]
    shorter = min(len(mine), len(theirs))
    head = next((i for i in range(shorter) if mine[i] != theirs[i]), shorter)
    rest = shorter - head
    tail = next((i for i in range(rest) if mine[-1 - i] != theirs[-1 - i]), rest)
    return head, tail


def _token(side: Side, index: int) -> bytes:
    """The instruction without what may differ: prefixes of padding, displacements."""
    width = int(side.widths[index])
    code = side.masked_code(index)
    if not width:
        return code.lstrip(bytes((REDUNDANT_PREFIX,)))
    return near_form(code[: len(code) - width])


def near_form(opcode: bytes) -> bytes:
    """The opcode of a direct branch (with prefixes), as the near branch has it."""
    if not opcode or opcode[-2:-1] == b"\x0f":
        return opcode
    return opcode[:-1] + NEAR_OPCODE.get(opcode[-1], opcode[-1:])


def _report_difference(
    report: Report,
    original: Side,
    o: I64,
    output: Side,
    p: I64,
    head: int,
    chunks: Chunks,
    chunk: int,
) -> None:
    lost = f"`{original.code(int(o[head])).hex(' ')}`" if head < len(o) else "nothing more"
    found = f"`{output.code(int(p[head])).hex(' ')}`" if head < len(p) else "nothing more"
    before_o = int(original.ends[o[head - 1]]) if head else int(chunks.o_va[chunk])
    before_p = int(output.ends[p[head - 1]]) if head else int(chunks.p_va[chunk])
    va = int(output.starts[p[head]]) if head < len(p) else before_p
    if head < len(o):
        # An instruction that became filler is not at p[head]: it is where the lost one should be.
        va = min(va, before_p + int(original.starts[o[head]]) - before_o)
    message = f"{found} stands where {lost} should ({len(p)} instructions, were {len(o)})"
    report.add(INSTRUCTION_CHANGED, va, message)


def _compare(paired: Match, original: Side, output: Side, bodies: Bodies, report: Report) -> None:
    """Every pair has the same bytes, but for what may change."""
    o, p = paired.o, paired.p
    widths = original.widths[o]
    same_len = (original.lens[o] == output.lens[p]) & (widths == output.widths[p])
    unequal: list[I64] = []
    for length in range(1, 16):
        which = np.flatnonzero(same_len & (original.lens[o] - widths == length))
        span = np.arange(length)
        mine = original.masked[original.offs[o[which], None] + span]
        theirs = output.masked[output.offs[p[which], None] + span]
        unequal.append(which[(mine != theirs).any(axis=1)])
    odd = np.concatenate([*unequal, np.flatnonzero(~same_len)])
    for i in np.sort(odd).tolist():
        _compare_one(int(o[i]), int(p[i]), original, output, bodies, report)
    for index in np.flatnonzero(~output.known).tolist():
        report.add(BYTE_UNACCOUNTED, int(output.starts[index]), "this byte is no instruction")


def _compare_one(
    o: int, p: int, original: Side, output: Side, bodies: Bodies, report: Report
) -> None:
    va = int(output.starts[p])
    mine, theirs = original.masked_code(o), output.masked_code(p)
    o_width, p_width = int(original.widths[o]), int(output.widths[p])
    if o_width == 1 and p_width == 4:
        if near_form(mine[:-1]) == theirs[:-4]:
            report.counts["branches made near"] += 1
            return
    elif not o_width and not p_width and _is_prefixed(mine, theirs):
        if bodies.body_of[p] < 0:
            added = len(theirs) - len(mine)
            report.add(UNRECORDED, va, f"widened by {added} prefixes without a record")
        return
    was, now = original.code(o).hex(" "), output.code(p).hex(" ")
    report.add(INSTRUCTION_CHANGED, va, f"`{was}` became `{now}`")


def _is_prefixed(mine: bytes, theirs: bytes) -> bool:
    added = len(theirs) - len(mine)
    return added > 0 and theirs == bytes((REDUNDANT_PREFIX,)) * added + mine

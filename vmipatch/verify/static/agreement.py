# SPDX-License-Identifier: MIT
"""Do two decoders that know nothing of each other see the same instructions?

The proof decodes with capstone, the rewriter with iced-x86. Each file is decoded by both, so that
neither's mistake about a length, a branch or a nop can pass for the truth, even where it would not
show in the comparison of the two files.
"""

from __future__ import annotations

import numpy as np

from vmipatch.isa.classify import classify, split_prefixes
from vmipatch.isa.decode import Flow, InstructionStream, Shape, decode
from vmipatch.isa.second import Leaves
from vmipatch.verify.static.candidates import candidates
from vmipatch.verify.static.comparison import Comparison, judges
from vmipatch.verify.static.rules import DECODERS_DISAGREE
from vmipatch.verify.static.side import Landmarks, Side
from vmipatch.verify.static.verdict import Report

SAME_FLOW = {
    Flow.NEXT: Leaves.NEXT,
    Flow.CALL: Leaves.CALL,
    Flow.JUMP: Leaves.JUMP,
    Flow.CONDITION: Leaves.CONDITION,
    Flow.LOOP: Leaves.LOOP,
    Flow.STOP: Leaves.STOP,
    Flow.NARROW: Leaves.NARROW,
}
UNDEFINED = (b"\x0f\x0b", b"\x0f\xb9", b"\x0f\xff")
"""ud2, ud1, ud0: one decoder's stop is the other's trap that comes back (a WARN does)."""


@judges(DECODERS_DISAGREE)
def check_agreement(comparison: Comparison) -> None:
    """Decode both sides again, with the scan's decoder, and compare instruction by instruction."""
    code = comparison.code
    _check_side(code.left, code.marks, comparison.report)
    _check_side(code.right, code.marks_of_output(), comparison.report)


def _check_side(side: Side, known: Landmarks, report: Report) -> None:
    for section in side.sections:
        code = side.image.section_bytes(section)
        begins = known.begins
        here = begins[(begins >= section.va) & (begins < section.end_va)].tolist()
        ends, opaque = known.function_ends.tolist(), known.opaque_in(section)
        other = decode(code, section.va, here, ends=ends, opaque=opaque)
        low, high = np.searchsorted(side.starts, (section.va, section.end_va))
        _compare(side, slice(int(low), int(high)), other, report)


def _compare(side: Side, here: slice, other: InstructionStream, report: Report) -> None:
    starts = other.starts.astype(np.int64)
    mine = side.starts[here]
    if not np.array_equal(mine, starts):
        for va in np.setxor1d(mine, starts).tolist():
            seen, by = ("first", "second") if va in starts else ("second", "first")
            message = f"the {seen} decoder sees an instruction begin here, the {by} none"
            report.add(DECODERS_DISAGREE, va, message, side.image.symbols.place_of(va))
        return
    table = np.array([SAME_FLOW[flow] for flow in Flow], np.uint8)
    differs = table[other.flows] != side.leaves[here]
    differs |= (other.shapes != Shape.CODE) != (side.fillers[here] != 0)
    differs |= (other.codes == 0) == side.known[here]
    for at in np.flatnonzero(differs).tolist():
        code = other.bytes_at(at)
        if not split_prefixes(code)[1].startswith(UNDEFINED):
            message = f"`{code.hex(' ')}`: the decoders take it for different things"
            va = int(starts[at])
            report.add(DECODERS_DISAGREE, va, message, side.image.symbols.place_of(va))
    _compare_candidates(side, here.start, other, report)


def _compare_candidates(side: Side, low: int, other: InstructionStream, report: Report) -> None:
    """The scan asks only of some instructions whether they are sensitive: of all that are?"""
    asked = np.zeros(len(other), np.bool_)
    asked[other.sensitive_candidates] = True
    which = candidates(side)
    which = which[(which >= low) & (which < low + len(other))]
    for index in which[~asked[which - low]].tolist():
        code = side.code(index)
        if classify(code) is not None:
            message = f"`{code.hex(' ')}` is sensitive, which the first decoder hides"
            va = int(side.starts[index])
            report.add(DECODERS_DISAGREE, va, message, side.image.symbols.place_of(va))

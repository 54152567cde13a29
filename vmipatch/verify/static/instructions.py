# SPDX-License-Identifier: MIT
"""Has each pair of instructions the same bytes, but for what may change?"""

from __future__ import annotations

import numpy as np

from vmipatch.verify.static.comparison import Comparison, judges
from vmipatch.verify.static.matching import REDUNDANT_PREFIX, masked, near_form
from vmipatch.verify.static.rules import BYTE_UNACCOUNTED, INSTRUCTION_CHANGED, UNRECORDED
from vmipatch.verify.static.side import I64


@judges(INSTRUCTION_CHANGED, UNRECORDED, BYTE_UNACCOUNTED)
def check_instructions(comparison: Comparison) -> None:
    """Every pair has the same bytes, but for what may change, and every byte is known.

    Words are left out where the original has a relocation: VP010 and VP020 judge them.
    """
    original, output = comparison.left, comparison.right
    o, p = comparison.paired.o, comparison.paired.p
    comparison.report.counts["instructions"] += len(o)
    widths = original.widths[o]
    same_len = (original.lens[o] == output.lens[p]) & (widths == output.widths[p])
    unequal: list[I64] = []
    for length in range(1, 16):
        which = np.flatnonzero(same_len & (original.lens[o] - widths == length))
        span = np.arange(length)
        place = original.offs[o[which], None] + span
        theirs = output.octets[output.offs[p[which], None] + span]
        differs = (original.octets[place] != theirs) & ~original.is_word[place]
        unequal.append(which[differs.any(axis=1)])
    odd = np.concatenate([*unequal, np.flatnonzero(~same_len)])
    for i in np.sort(odd).tolist():
        _compare_one(int(o[i]), int(p[i]), comparison)
    for index in np.flatnonzero(~output.known).tolist():
        comparison.report.add(
            BYTE_UNACCOUNTED, int(output.starts[index]), "this byte is not an instruction"
        )


def _compare_one(o: int, p: int, comparison: Comparison) -> None:
    original, output, report = comparison.left, comparison.right, comparison.report
    va = int(output.starts[p])
    words = original.words_of(o)
    mine, theirs = masked(original.code(o), words), masked(output.code(p), words)
    o_width, p_width = int(original.widths[o]), int(output.widths[p])
    if o_width == 1 and p_width == 4:
        if near_form(mine[:-1]) == theirs[:-4]:
            report.counts["branches made near"] += 1
            return
    elif not o_width and not p_width and _is_prefixed(mine, theirs):
        if comparison.bodies.body_of[p] < 0:
            added = len(theirs) - len(mine)
            report.add(UNRECORDED, va, f"widened by {added} prefixes without a record")
        return
    was, now = original.code(o).hex(" "), output.code(p).hex(" ")
    report.add(INSTRUCTION_CHANGED, va, f"`{was}` became `{now}`")


def _is_prefixed(mine: bytes, theirs: bytes) -> bool:
    added = len(theirs) - len(mine)
    return added > 0 and theirs == bytes((REDUNDANT_PREFIX,)) * added + mine

# SPDX-License-Identifier: MIT
"""Does code stand in its order, and follow what runs into it?"""

from __future__ import annotations

import numpy as np

from vmipatch.verify.static.comparison import Comparison, judges
from vmipatch.verify.static.fillers import STOPS, bytes_between
from vmipatch.verify.static.rules import CHUNK_LOST


@judges(CHUNK_LOST)
def check_sequence(comparison: Comparison) -> None:
    """Where control may run from one chunk into the next, the next still follows."""
    chunks, paired, original = comparison.chunks, comparison.paired, comparison.left
    _check_order(comparison)
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
            ends_va < int(chunks.o_end[c])
            and bytes_between(original, ends_va, ends_va + 1) == b"\xcc"
        )
        at_end = any(int(chunks.o_end[c]) == s.end_va for s in original.sections)
        if original.leaves[last] not in STOPS and not barred and not at_end:
            comparison.report.add(
                CHUNK_LOST,
                int(chunks.p_va[c]),
                "the code that this one runs into no longer follows it",
            )


def _check_order(comparison: Comparison) -> None:
    """In each section chunks stand in the order in which they stood."""
    chunks = comparison.chunks
    for section in comparison.right.sections:
        here = np.flatnonzero((chunks.p_va >= section.va) & (chunks.p_va < section.end_va))
        for c in here[1:][np.diff(chunks.o_va[here]) < 0].tolist():
            message = f"{int(chunks.o_va[c]):#x} stood before the code that is in front of it now"
            comparison.report.add(CHUNK_LOST, int(chunks.p_va[c]), message)

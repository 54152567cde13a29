# SPDX-License-Identifier: MIT
"""Has what an unknown reference may target stayed where it was?"""

from __future__ import annotations

import numpy as np

from vmipatch.verify.static.comparison import Comparison, judges
from vmipatch.verify.static.outline import TRAMPOLINES
from vmipatch.verify.static.rules import PINNED
from vmipatch.verify.static.side import I64, Flags
from vmipatch.verify.static.verdict import RECOVERED


@judges(PINNED)
def check_pinned(comparison: Comparison) -> None:
    """Code that lies in the pinned ranges, or begins at them, is where it was."""
    code = comparison.images.code_o
    for start, end in comparison.inputs.pinned:
        at = np.searchsorted(code, [start, max(end, start + 1)])
        was, now = code[at[0] : at[1]], comparison.images.self_p[at[0] : at[1]].astype(np.int64)
        # In a window that is out of line the addresses do not go on.
        moved = np.flatnonzero((was != now) & ~_is_out_of_line(comparison, now))
        comparison.report.counts[RECOVERED] += len(was)
        for i in moved[:1].tolist():
            message = f"{int(was[i]):#x} moved to {int(now[i]):#x}"
            comparison.report.add(PINNED, int(now[i]), message)


def _is_out_of_line(comparison: Comparison, vas: I64) -> Flags:
    section = comparison.output.section_by_name.get(TRAMPOLINES)
    if section is None:
        return np.zeros(len(vas), np.bool_)
    return np.asarray((vas >= section.va) & (vas < section.end_va))

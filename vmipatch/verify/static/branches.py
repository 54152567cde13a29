# SPDX-License-Identifier: MIT
"""Does every direct branch lead to the image of where it led?"""

from __future__ import annotations

import numpy as np

from vmipatch.verify.static.added import lead
from vmipatch.verify.static.images import NOWHERE, Images
from vmipatch.verify.static.matching import Match
from vmipatch.verify.static.rules import BRANCH_LEADS_ELSEWHERE, TARGET_WITHOUT_IMAGE
from vmipatch.verify.static.side import Side
from vmipatch.verify.static.verdict import Report


def check_branches(
    images: Images,
    sides: tuple[Side, Side],
    paired: Match,
    redirect: dict[int, int],
    report: Report,
) -> None:
    """Compare the target of each direct branch of the output with the image of the original's.

    Branches to the addresses in `redirect` target the added code instead. Jumps that only their
    copies execute are words of a table, and judged there.
    """
    original, output = sides
    direct = (original.widths[paired.o] > 0) & (output.widths[paired.p] > 0)
    direct &= ~np.isin(original.starts[paired.o], list(original.copied))
    o, p = paired.o[direct], paired.p[direct]
    was, leads = original.targets(o), output.targets(p)
    linked = original.linked_targets(o)
    should = lead(images(linked), linked, redirect)
    should = np.where(should == NOWHERE, NOWHERE, (should + was - linked) & 0xFFFFFFFF)
    report.counts["branches"] += len(o)
    for i in np.flatnonzero((should != leads) & (should != NOWHERE)).tolist():
        message = f"leads to {leads[i]:#x}, its image is at {should[i]:#x}"
        report.add(BRANCH_LEADS_ELSEWHERE, int(output.starts[p[i]]), message)
    for i in np.flatnonzero(should == NOWHERE).tolist():
        message = f"led to {was[i]:#x}, of which there is no image"
        report.add(TARGET_WITHOUT_IMAGE, int(output.starts[p[i]]), message)

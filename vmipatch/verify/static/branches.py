# SPDX-License-Identifier: MIT
"""Does every direct branch target the image of its old target?"""

from __future__ import annotations

import numpy as np

from vmipatch.verify.static.comparison import Comparison, judges
from vmipatch.verify.static.images import NOWHERE
from vmipatch.verify.static.rules import BRANCH_LEADS_ELSEWHERE, TARGET_WITHOUT_IMAGE


@judges(BRANCH_LEADS_ELSEWHERE, TARGET_WITHOUT_IMAGE)
def check_branches(comparison: Comparison) -> None:
    """Compare the target of each direct branch of the output with the image of the original's.

    Branches to addresses that are redirected target the added code instead. Jumps that only their
    copies execute are words of a table, and judged there.
    """
    original, output = comparison.left, comparison.right
    paired, report = comparison.paired, comparison.report
    direct = (original.widths[paired.o] > 0) & (output.widths[paired.p] > 0)
    direct &= ~np.isin(original.starts[paired.o], list(original.copied))
    o, p = paired.o[direct], paired.p[direct]
    was, leads = original.targets(o), output.targets(p)
    linked = original.linked_targets(o)
    should = comparison.redirected(comparison.images(linked), was, original.starts[o])
    should = np.where(should == NOWHERE, NOWHERE, (should + was - linked) & 0xFFFFFFFF)
    report.counts["branches"] += len(o)
    for i in np.flatnonzero((should != leads) & (should != NOWHERE)).tolist():
        message = f"targets {leads[i]:#x}, its image is at {should[i]:#x}"
        report.add(BRANCH_LEADS_ELSEWHERE, int(output.starts[p[i]]), message)
    for i in np.flatnonzero(should == NOWHERE).tolist():
        message = f"targeted {was[i]:#x}, of which there is no image"
        report.add(TARGET_WITHOUT_IMAGE, int(output.starts[p[i]]), message)

# SPDX-License-Identifier: MIT
"""Does code stay as it was that the kernel or a hypervisor takes as a whole?"""

from __future__ import annotations

import numpy as np

from vmipatch.image.code_pages import PAGE, code_pages
from vmipatch.isa.emulated import CPUID, XEN_PREFIX, emulated_prefixes
from vmipatch.verify.static.comparison import Comparison, judges
from vmipatch.verify.static.images import NOWHERE
from vmipatch.verify.static.rules import CODE_PAGE, EMULATED


@judges(CODE_PAGE)
def check_pages(comparison: Comparison) -> None:
    """Pages and ranges that are copied or written as a whole are in one piece, and aligned."""
    kept = comparison.code.kept
    for start, end in (*code_pages(comparison.original), *kept.named, *kept.objects):
        vas = np.arange(start, end, dtype=np.int64)
        new = comparison.images(vas)
        known = new != NOWHERE  # of an instruction its first byte
        moved = new[known] - vas[known]
        for i in np.flatnonzero(moved != moved[0])[:1].tolist():
            message = f"{int(vas[known][i]):#x} does not move with {start:#x}, where it begins"
            comparison.report.add(CODE_PAGE, int(new[0]), message)
        if start % PAGE == 0 and new[0] % PAGE:
            message = f"the page of code at {start:#x} is at {int(new[0]):#x}, in two pages"
            comparison.report.add(CODE_PAGE, int(new[0]), message)


@judges(EMULATED)
def check_emulated(comparison: Comparison) -> None:
    """After each prefix of Xen stands the cpuid that it is for, as it was."""
    for section in comparison.left.sections:
        code = comparison.original.section_bytes(section)
        vas = np.array(emulated_prefixes(code), np.int64) + section.va
        for was, now in zip(vas.tolist(), comparison.images(vas).tolist(), strict=True):
            after = comparison.right.find(np.array([now + len(XEN_PREFIX)], np.int64))[0]
            whole = XEN_PREFIX + CPUID
            kept = now != NOWHERE and comparison.output.read(now, len(whole)) == whole
            if not kept or after < 0 or comparison.bodies.body_of[after] >= 0:
                message = f"the prefix of Xen at {was:#x} is not in front of its cpuid"
                comparison.report.add(EMULATED, now, message)

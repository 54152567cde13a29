# SPDX-License-Identifier: MIT
"""Do two libraries read the same headers in both files?"""

from __future__ import annotations

from vmipatch.image.elf import ElfImage
from vmipatch.image.module import is_linked_module
from vmipatch.image.second_reader import header_differences
from vmipatch.verify.static.comparison import Inputs, judges
from vmipatch.verify.static.rules import READERS_DISAGREE
from vmipatch.verify.static.verdict import Report


@judges(READERS_DISAGREE)
def check_readers(inputs: Inputs) -> None:
    """Check that the headers are what another library than ours reads.

    A module is compared as the proof has linked it; the headers of its file are checked before.
    """
    if not is_linked_module(inputs.original):
        report_differences(inputs.original, inputs.output, inputs.report)


def report_differences(original: ElfImage, output: ElfImage, report: Report) -> None:
    """Report where lief reads other headers in one of two files, as they are stored."""
    for which, image in (("original", original), ("output", output)):
        for difference in header_differences(image):
            report.add(READERS_DISAGREE, 0, difference, f"headers of the {which}")

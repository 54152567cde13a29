# SPDX-License-Identifier: MIT
"""Is there so much code in the output that the original cannot have asked for it?

The proof decodes every byte of code and reads every record, so its time and memory grow with them.
Both stay within a bound that follows from the original: a longer output is a finding, and no more
is asked of it.
"""

from __future__ import annotations

from vmipatch.image.elf import ElfImage
from vmipatch.image.module import is_linked_module
from vmipatch.verify.static.comparison import Inputs, judges
from vmipatch.verify.static.room import TEXT
from vmipatch.verify.static.rules import NEW_SECTION
from vmipatch.verify.static.spare import shift_step

ANY_SITES = 1 << 20
"""Bytes that the sites of any file may ask for: about 10,000 of them, at 100 bytes for each record,
translation and thunk. Debian 12's kernels have 3,500 sites in 14 MB of code."""
GROWTH = 2
"""Times that code may be as long as the original's: one site more for each 100 bytes."""


@judges(NEW_SECTION)
def check_lengths(inputs: Inputs) -> None:
    """The code and the records of the output are not longer than the original explains."""
    found, most = _length(inputs), most_bytes(inputs.original)
    if found > most:
        message = f"code and records have {found} bytes, {most} at most can be asked for"
        inputs.report.add(NEW_SECTION, 0, message, "sections of code")


def is_bounded(inputs: Inputs) -> bool:
    """Whether what has to be decoded stays within the bound."""
    return _length(inputs) <= most_bytes(inputs.original)


def most_bytes(original: ElfImage) -> int:
    """The most bytes of code and records that an output of `original` may have."""
    code_len = sum(section.size for section in original.executable_sections)
    is_shifted = TEXT in original.section_by_name and not is_linked_module(original)
    step = shift_step(original) if is_shifted else 0
    return GROWTH * code_len + step + ANY_SITES


def _length(inputs: Inputs) -> int:
    """Bytes of all executable sections of the output, and of the loaded ones that were added."""
    output, first_added = inputs.output, len(inputs.original.sections)
    added = (s for s in output.sections[first_added:] if s.is_alloc and not s.is_exec)
    return sum(section.size for section in (*output.executable_sections, *added))

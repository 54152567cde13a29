# SPDX-License-Identifier: MIT
"""Did everything after .text move no further than the new code needs?

A shift that is longer puts data where less memory is, and where early page tables may not reach.
"""

from __future__ import annotations

from vmipatch.image.elf import ElfImage
from vmipatch.verify.static.added import NEW_CODE
from vmipatch.verify.static.comparison import Comparison, judges
from vmipatch.verify.static.room import PAGE, TEXT
from vmipatch.verify.static.rules import NEW_SECTION

KEPT_FREE = 3 * PAGE
"""Bytes that thunks, the runtime and a copy of a ROM may ask for, filler among them."""
INT3 = b"\xcc"


@judges(NEW_SECTION)
def check_shift(comparison: Comparison) -> None:
    """The shift keeps all alignments, and one step less would not give the new code its room."""
    original, shift_len = comparison.inputs.original, comparison.manifest.shift_len
    code = comparison.output.section_by_name.get(NEW_CODE)
    if not shift_len or code is None or TEXT not in original.section_by_name:
        return
    step = shift_step(original)
    content = comparison.output.section_bytes(code)
    spare = len(content) - len(content.rstrip(INT3))
    if shift_len % step:
        message = f"sections moved by {shift_len:#x} bytes, which is not a multiple of {step:#x}"
        comparison.report.add(NEW_SECTION, code.va, message, NEW_CODE)
    if spare >= KEPT_FREE + step:
        message = f"{spare:#x} bytes are free in it, though sections moved to make room"
        comparison.report.add(NEW_SECTION, code.va, message, NEW_CODE)


def shift_step(original: ElfImage) -> int:
    """The least distance that keeps the alignment of each later section, segment and object."""
    end_va = original.section_by_name[TEXT].end_va
    found = [s.align for s in original.allocated_sections if s.va >= end_va]
    found += [segment.align for segment in original.loads]
    objects = original.symbols.aligned_objects
    found += objects["size"][objects["value"] >= end_va].tolist()
    return max(PAGE, *found)

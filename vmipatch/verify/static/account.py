# SPDX-License-Identifier: MIT
"""Does every byte of the output's code belong to the original's, and where is it entered?"""

from __future__ import annotations

from vmipatch.verify.static.comparison import Comparison, judges
from vmipatch.verify.static.rules import BYTE_UNACCOUNTED, SEGMENT_HEADER


@judges(SEGMENT_HEADER)
def check_entry(comparison: Comparison) -> None:
    """The loader enters at the image of the instruction it entered at."""
    was, now = comparison.original.entry, comparison.output.entry
    base = 0 if comparison.left.section_of(was) else comparison.images.physical
    should = comparison.images.one(was + base)
    if now + base != should:
        message = f"entered at {now:#x}, should be at {should - base:#x}"
        comparison.report.add(SEGMENT_HEADER, now + base, message, "ELF header")


@judges(BYTE_UNACCOUNTED)
def check_bytes(comparison: Comparison) -> None:
    """Every byte of the output's code belongs to a chunk; count them by what they are."""
    length = comparison.chunks.p_end - comparison.chunks.p_va
    for section in comparison.right.sections:
        here = (comparison.chunks.p_va >= section.va) & (comparison.chunks.p_va < section.end_va)
        missing = section.size - int(length[here].sum())
        if missing:
            message = f"{missing} bytes belong to no code of the original"
            comparison.report.add(BYTE_UNACCOUNTED, section.va, message, section.name)
    counts = comparison.report.counts
    counts["code bytes"] += int(comparison.right.lens[comparison.paired.p].sum())
    counts["site padding bytes"] += int(comparison.right.lens[comparison.bodies.is_pad].sum())
    filler = (comparison.right.fillers > 0) & ~comparison.bodies.is_pad
    counts["filler bytes"] += int(comparison.right.lens[filler].sum())
    new = comparison.output.sections[len(comparison.original.sections) :]
    counts["new bytes"] += sum(s.size for s in new if s.is_alloc)
    counts["chunks"] += len(comparison.chunks)

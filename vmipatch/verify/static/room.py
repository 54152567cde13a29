# SPDX-License-Identifier: MIT
"""Where does the room for new code end?"""

from __future__ import annotations

from vmipatch.image.elf import ElfImage

PAGE = 4096
TEXT = ".text"


def room_end(original: ElfImage) -> int:
    """Where the last page of .text ends, or the next section begins in it."""
    text = original.section_by_name[TEXT]
    page_end = text.va + -(-text.size // PAGE) * PAGE
    after = (s.va for s in original.allocated_sections if s.va >= text.end_va and s.size)
    return min(page_end, *after, page_end)

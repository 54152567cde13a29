# SPDX-License-Identifier: MIT
"""Where is the code of a kernel that has no section headers? In what is loaded to be executed."""

from __future__ import annotations

from dataclasses import replace

from vmipatch.image.elf import ElfImage
from vmipatch.image.types import Section, SectionFlag, SectionKind, Segment

PF_X, PF_W = 1, 2


def with_sections(image: ElfImage) -> ElfImage:
    """`image`, or if it has no section of code, the same with one for each such segment.

    Such a section may hold data as well: nothing tells the one from the other.
    """
    if image.executable_sections:
        return image
    code = [s for s in image.loads if s.flags & PF_X and s.file_len]
    null = Section(0, "", SectionKind.NULL, SectionFlag.NONE, 0, 0, 0, 0, 0, 0, 0)
    old = image.sections or (null,)
    made = tuple(_section(len(old) + i, segment) for i, segment in enumerate(code))
    names = {section.name: section for section in made}
    return replace(image, sections=(*old, *made), section_by_name=image.section_by_name | names)


def _section(index: int, segment: Segment) -> Section:
    flags = SectionFlag.ALLOC | SectionFlag.EXEC
    if segment.flags & PF_W:
        flags |= SectionFlag.WRITE
    length = min(segment.file_len, segment.mem_len)
    return Section(
        index, f"segment at {segment.va:#x}", SectionKind.PROGBITS, flags, segment.va, segment.off,
        length, 0, 0, max(segment.align, 1), 0,
    )  # fmt: skip

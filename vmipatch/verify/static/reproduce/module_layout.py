# SPDX-License-Identifier: MIT
"""Where does everything lie in a rewritten module, by the changes of its code alone?

Each section is linked in a region of its own, where it may grow; in the file those that occupy
memory follow the ELF header, in their order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vmipatch.image.elf import ELF_HEADER_LEN, ElfImage
from vmipatch.image.module import REGION_LEN, ModuleRegions
from vmipatch.verify.static.comparison import Comparison
from vmipatch.verify.static.reproduce.decisions import Change
from vmipatch.verify.static.reproduce.heads import section_heads
from vmipatch.verify.static.reproduce.layout import Growth, Layout
from vmipatch.verify.static.reproduce.moves import Moves

CODE_ALIGN, PART_ALIGN = 16, 4
"""sh_addralign of added code, and of all else that is added and loaded."""


def module_layout(comparison: Comparison, file: ElfImage, changes: Sequence[Change]) -> Layout:
    """The layout of the module `file`, of which `comparison.original` is the linked image.

    `heads` have linked addresses; offsets are those in the file.
    """
    image = comparison.original
    grown = Growth(image, changes)
    pieces: list[tuple[int, int]] = []
    for section in image.executable_sections:
        pieces += grown.pieces(section, 0)
        pieces += [(section.end_va, grown.of(section)), (section.va + REGION_LEN, 0)]
    heads, at = section_heads(file), ELF_HEADER_LEN
    for section in image.sections[1:]:
        if section.is_alloc:
            head = heads[section.index]
            head["va"] = section.va
            if section.is_exec and section.has_bytes:
                head["size"] = section.size + grown.of(section)
            at += -at % max(section.align, 1)
            head["off"] = at
            at += int(head["size"]) if section.has_bytes else 0
    first, regions = len(file.sections), ModuleRegions.of(file.sections)
    room = regions.va(first)
    return Layout(
        Moves.of(pieces), heads, np.zeros(0), 0, 0, at, at, (room, room), (0, 0),
        regions.va(first + 1), REGION_LEN,
    )  # fmt: skip

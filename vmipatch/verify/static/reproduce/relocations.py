# SPDX-License-Identifier: MIT
"""The relocation sections: the original's entries in their order, at their new places."""

from __future__ import annotations

import numpy as np

from vmipatch.image.elf import ElfImage
from vmipatch.image.relocations import R_386_NONE, RAW_REL
from vmipatch.verify.static.outline import TRAMPOLINES
from vmipatch.verify.static.reproduce.layout import Layout


def relocation_section(image: ElfImage, new: Layout, index: int) -> bytes:
    """The entries of one relocation section of what is loaded. What relocates nothing stays."""
    raw = np.frombuffer(image.section_bytes(image.sections[index]), RAW_REL).copy()
    real = raw["info"] & 0xFF != R_386_NONE
    raw["offset"][real] = new.moves(raw["offset"][real].astype(np.int64)).astype(np.uint32)
    return raw.tobytes()


def relocations_out_of_line(image: ElfImage, new: Layout) -> bytes:
    """The entries of words in windows that are out of line, which went along, by address."""
    section = image.section_by_name.get(f".rel{TRAMPOLINES}")
    if section is None:
        return b""
    raw = np.frombuffer(image.section_bytes(section), RAW_REL).copy()
    raw["offset"] = new.moves(raw["offset"].astype(np.int64)).astype(np.uint32)
    return raw[np.lexsort((raw["info"], raw["offset"]))].tobytes()

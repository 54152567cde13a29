# SPDX-License-Identifier: MIT
"""What of the original enters the function before which the runtime runs?

Found with the proof's own decoder; what counts as a way in is decision 0044.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vmipatch.image.ascending import among, distinct
from vmipatch.image.elf import ElfImage
from vmipatch.image.hook import hook_va, own_end
from vmipatch.image.relocations import R_386_32
from vmipatch.tables.table import Tables
from vmipatch.verify.static.side import I64, Flags, Side
from vmipatch.verify.static.table_facts import covered_words, sorted_ranges


@dataclass(frozen=True, slots=True, eq=False)
class Hook:
    """The function, and what is to target the runtime instead."""

    name: str
    va: int
    end_va: int
    """First address after it: branches from inside of it are its loops."""
    branches: I64
    """Addresses of the branches that are redirected, ascending."""
    words: I64
    """Addresses of the words that are redirected, ascending."""

    @property
    def is_entered(self) -> bool:
        """Whether the runtime ever runs."""
        return bool(len(self.branches) or len(self.words))


def find_hook(
    left: Side,
    relocated: np.ndarray,
    tables: Tables,
    name: str,
    objects: Sequence[tuple[int, int]] = (),
) -> Hook | None:
    """The hook of the original `left`, None if no code has this name or several have it.

    `relocated` are the original's Relocations.entries, `objects` the data in its code.
    """
    image = left.image
    va = hook_va(image, name)
    if va is None:
        return None
    end_va = own_end(image, va)
    direct = np.flatnonzero(left.widths > 0)
    places = left.starts[direct][left.targets(direct) == va]
    branches = places[(places < va) | (places >= end_va)]
    words = _words(relocated, tables, va)
    operands = words[_in_code(image, words, objects)]
    return Hook(name, va, end_va, branches, operands if len(branches) + len(operands) else words)


def _words(relocated: np.ndarray, tables: Tables, va: int) -> I64:
    """Absolute words that hold `va`, but for those of the kernel's tables."""
    holds = (relocated["kind"] == R_386_32) & (relocated["value"] == va)
    places = distinct(relocated["va"][holds].astype(np.int64))
    kept = ~among(places, distinct(covered_words(tables)))
    for start_va, end_va in sorted_ranges(tables):
        kept &= (places < start_va) | (places >= end_va)
    found: I64 = places[kept]
    return found


def _in_code(image: ElfImage, vas: I64, objects: Sequence[tuple[int, int]]) -> Flags:
    result = np.zeros(len(vas), np.bool_)
    for section in image.executable_sections:
        result |= (vas >= section.va) & (vas < section.end_va)
    for start_va, end_va in objects:
        result &= (vas < start_va) | (vas >= end_va)
    return result

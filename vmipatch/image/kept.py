# SPDX-License-Identifier: MIT
"""What in a section of code is not laid out anew, byte for byte? Headers, objects, what is copied.

- What a boot loader looks for (vmipatch.image.entry_points).
- What a symbol of an object names: data beside the code that reads it.
- What a user names by two symbols, `START..END`: code that is copied elsewhere as a whole, or has
  16 bits, and computes its own addresses.
- 16-bit code that is known by itself (vmipatch.image.code_pages).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from vmipatch.errors import InputNotUnderstood
from vmipatch.image.code_pages import PAGE, real_mode_page
from vmipatch.image.elf import ElfImage
from vmipatch.image.entry_points import header_ranges
from vmipatch.image.symbols import STT_OBJECT

Range = tuple[int, int]
BETWEEN: Final = ".."


@dataclass(frozen=True, slots=True)
class Kept:
    """[start, end) of each such place, by kind."""

    headers: tuple[Range, ...]
    objects: tuple[Range, ...]
    named: tuple[Range, ...]
    """As the user has them."""
    real_mode: tuple[Range, ...]

    @classmethod
    def of(cls, image: ElfImage, names: Iterable[str] = ()) -> Kept:
        """Those of `image`. Raises InputNotUnderstood as `named_range` does."""
        page = real_mode_page(image)
        named = (named_range(image, name) for name in names)
        return cls(
            header_ranges(image),
            tuple(_objects(image)),
            tuple(sorted(named)),
            (page,) if page else (),
        )

    @property
    def ranges(self) -> list[Range]:
        """All of them, ascending; those that overlap are one."""
        merged: list[Range] = []
        for start, end in sorted([*self.headers, *self.objects, *self.named, *self.real_mode]):
            if merged and start < merged[-1][1]:
                merged[-1] = merged[-1][0], max(end, merged[-1][1])
            else:
                merged.append((start, end))
        return merged

    @property
    def aligned(self) -> dict[int, int]:
        """Each start and the alignment, in bytes, that it keeps: what it has, up to a page.

        Not that of 16-bit code that is known by itself: it is copied to where it wants to be.
        """
        starts = [start for start, _ in (*self.headers, *self.objects, *self.named)]
        units = {start: min(start & -start, PAGE) for start in starts}
        return {start: unit for start, unit in units.items() if unit > 1}


def named_range(image: ElfImage, name: str) -> Range:
    """[start, end) of `START..END`, two symbols of one section of code.

    Raises InputNotUnderstood if they are not.
    """
    first, _, second = name.partition(BETWEEN)
    start, end = image.symbols.address(first), image.symbols.address(second)
    sections = image.executable_sections
    if start is None or end is None or not any(s.va <= start < end <= s.end_va for s in sections):
        raise InputNotUnderstood(
            f"no two symbols of one section of code are {first} and, after it, {second}",
            file=image.name,
            place=name,
            hint="name two symbols: START..END",
        )
    return start, end


def ranges_in(ranges: Sequence[Range], start_va: int, end_va: int) -> list[Range]:
    """Those that begin in [start, end)."""
    return [edges for edges in ranges if start_va <= edges[0] < end_va]


def _objects(image: ElfImage) -> Iterator[Range]:
    entries = image.symbols.entries
    sized = (entries["info"] & 15 == STT_OBJECT) & (entries["size"] > 0)
    for section in image.executable_sections:
        for row in np.flatnonzero(sized & (entries["shndx"] == section.index)).tolist():
            start, size = int(entries["value"][row]), int(entries["size"][row])
            if section.va <= start and start + size <= section.end_va:
                yield start, start + size

# SPDX-License-Identifier: MIT
"""Which of these thousands of addresses are code, and which bytes are there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vmipatch.tables.source import ImageSource, SectionSource
from vmipatch.tables.table import U32, Mask

SUPPLIED = "*kernel*"
"""The section of a linked module that stands for what its loader supplies, code and data."""


@dataclass(frozen=True, slots=True, eq=False)
class Extents:
    """Disjoint address ranges with, for those that have bytes, their place in the file."""

    start_va: npt.NDArray[np.int64]
    end_va: npt.NDArray[np.int64]
    off: npt.NDArray[np.int64]

    @classmethod
    def of(cls, sections: Sequence[SectionSource]) -> Extents:
        """The ranges of `sections`; empty ones are left out."""
        rows = sorted((s.va, s.end_va, s.off) for s in sections if s.size)
        columns = np.array(rows, dtype=np.int64).reshape(-1, 3)
        return cls(columns[:, 0], columns[:, 1], columns[:, 2])

    def index(self, va: U32) -> npt.NDArray[np.int64]:
        """For each address the range that holds it, -1 where none does."""
        if not len(self.start_va):
            return np.full(len(va), -1, dtype=np.int64)
        wide = va.astype(np.int64)
        at = np.searchsorted(self.start_va, wide, side="right") - 1
        return np.where((at >= 0) & (wide < self.end_va[at]), at, -1)

    def hold(self, va: U32, length: int | npt.NDArray[np.int64] = 1) -> Mask:
        """Whether [va, va+length) lies inside one range, for each address."""
        at = self.index(va)
        if not len(self.end_va):
            return at >= 0
        return (at >= 0) & (va.astype(np.int64) + length <= self.end_va[at])


@dataclass(frozen=True, slots=True, eq=False)
class ImageView:
    """An image, prepared for questions about whole arrays of addresses."""

    image: ImageSource
    code: Extents
    """Executable sections, and what the loader of a module supplies."""
    own_code: Extents
    """Executable sections of the image alone."""
    stored: Extents
    """Allocated sections that have bytes in the file."""
    allocated: Extents
    """All sections that occupy memory."""
    octet: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, image: ImageSource) -> ImageView:
        """Prepare `image`; costs nothing to speak of."""
        allocated = image.allocated_sections
        supplied = [s for s in allocated if s.name == SUPPLIED]
        return cls(
            image,
            Extents.of([*image.executable_sections, *supplied]),
            Extents.of(image.executable_sections),
            Extents.of([s for s in allocated if s.has_bytes]),
            Extents.of(allocated),
            np.frombuffer(image.data, dtype=np.uint8),
        )

    @property
    def is_module(self) -> bool:
        """Whether this is a module: then the loader sorts its tables, relocations name words."""
        return SUPPLIED in self.image.section_by_name

    def bytes_at(self, va: U32, length: int) -> npt.NDArray[np.uint8]:
        """`length` bytes at each address: shape (len(va), length). Zero where the file has none."""
        at = self.stored.index(va)
        off = self.stored.off[at] - self.stored.start_va[at] + va.astype(np.int64)
        index = off[:, None] + np.arange(length)
        inside = (at >= 0)[:, None] & (index < len(self.octet))
        return np.where(inside, self.octet[np.where(inside, index, 0)], 0).astype(np.uint8)

    def words_at(self, va: U32) -> U32:
        """The little-endian word at each address, aligned or not."""
        return self.bytes_at(va, 4).view("<u4").reshape(-1)

    def strings_at(self, va: U32) -> list[bytes]:
        """The NUL-terminated string at each address, without its NUL, which the file must hold."""
        at = self.stored.index(va)
        offs = self.stored.off[at] - self.stored.start_va[at] + va.astype(np.int64)
        data = self.image.data
        ends = (data.find(b"\0", off) for off in offs.tolist())
        return [
            data[off : end if end >= 0 else None]
            for off, end in zip(offs.tolist(), ends, strict=True)
        ]

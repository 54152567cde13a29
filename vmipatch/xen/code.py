# SPDX-License-Identifier: MIT
"""Which bytes are the ROM, and which of its words depend on its place?"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import numpy as np

from vmipatch.image.elf import ElfImage
from vmipatch.image.relocations import R_386_32, Relocations
from vmipatch.image.symbols import SHN_ABS
from vmipatch.image.types import SegmentKind
from vmipatch.xen.compiler import link, packaged


@dataclass(frozen=True, slots=True)
class RomCode:
    """The linked ROM. Addresses are those of rom.ld: physical ones, as if it stood at LINK_PA."""

    start: int
    data: bytes = field(repr=False)
    mem_len: int
    entry: int
    symbols: dict[str, int] = field(hash=False)
    moving: tuple[int, ...] = field(repr=False)
    """Addresses of words that hold an address of the ROM."""
    fixed: tuple[int, ...] = field(repr=False)
    """Addresses of words that hold an address of low memory, which is always at PAGE_OFFSET."""
    notes: tuple[int, int]
    """Address and length of the notes that Xen reads."""

    @property
    def end(self) -> int:
        """Its first address that is not the ROM's, a multiple of a page."""
        return -(-(self.start + self.mem_len) // 4096) * 4096


@cache
def rom_code() -> RomCode:
    """The ROM, from the package or compiled now. Raises EnvironmentProblem."""
    return _read(ElfImage.parse(packaged() or link(), "ROM for Xen"))


def _read(image: ElfImage) -> RomCode:
    (load,) = image.loads
    (note,) = (each for each in image.segments if each.kind is SegmentKind.NOTE)
    entries = Relocations.of(image).entries
    words = entries[entries["kind"] == R_386_32]
    absolute = image.symbols.entries["shndx"][words["symbol"]] == SHN_ABS
    return RomCode(
        load.va,
        image.data[load.off : load.off + load.file_len],
        load.mem_len,
        image.entry,
        {symbol.name: symbol.va for symbol in image.symbols if symbol.name},
        _sorted(words["va"][~absolute]),
        _sorted(words["va"][absolute]),
        (note.va, note.file_len),
    )


def _sorted(addresses: np.ndarray) -> tuple[int, ...]:
    return tuple(np.sort(addresses).tolist())

# SPDX-License-Identifier: MIT
"""How a file is damaged: cut off, bits turned, sections shrunk, stretched or laid over others."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from hypothesis import strategies as st

from vmipatch.image.elf import ElfImage
from vmipatch.image.types import SectionKind

SECTION_HEADER_LEN, SYMBOL_LEN = 40, 16
ADDRESS, OFFSET, SIZE = 12, 16, 20
"""Where these stand in a section header."""
VALUE = 4
"""Where the address stands in a symbol."""


@dataclass(frozen=True, slots=True)
class Damage:
    """One way to damage a file; fractions choose a place in whatever file it is."""

    kind: str
    where: float
    other: float
    amount: int

    def apply(self, image: ElfImage) -> bytes:
        """The bytes of the file, damaged."""
        data = bytearray(image.data)
        sections = [s for s in image.sections if s.size and s.has_bytes]
        chosen = sections[int(self.where * len(sections))]
        header = self._header_off(image, chosen.index)
        match self.kind:
            case "cut":
                return bytes(data[: int(self.where * len(data))])
            case "bit":
                at = chosen.off + int(self.other * chosen.size)
                data[at] ^= 1 << self.amount % 8
            case "size":
                self._add(data, header + SIZE, self.amount)
            case "address":
                self._add(data, header + ADDRESS, self.amount)
            case "overlap":
                victim = sections[int(self.other * len(sections))]
                struct.pack_into("<II", data, header + ADDRESS, victim.va, victim.off)
            case "symbol":
                self._move_symbol(image, data)
        return bytes(data)

    def _move_symbol(self, image: ElfImage, data: bytearray) -> None:
        table = next((s for s in image.sections if s.kind is SectionKind.SYMTAB), None)
        if table is not None:
            index = int(self.other * (table.size // SYMBOL_LEN))
            self._add(data, table.off + index * SYMBOL_LEN + VALUE, self.amount)

    @staticmethod
    def _header_off(image: ElfImage, index: int) -> int:
        (start,) = struct.unpack_from("<I", image.data, 32)
        return int(start) + SECTION_HEADER_LEN * index

    @staticmethod
    def _add(data: bytearray, at: int, amount: int) -> None:
        (value,) = struct.unpack_from("<I", data, at)
        struct.pack_into("<I", data, at, (value + amount) & 0xFFFFFFFF)


KINDS = ("cut", "bit", "size", "address", "overlap", "symbol")
_FRACTION = st.floats(0, 1, exclude_max=True)

damages = st.builds(
    Damage,
    st.sampled_from(KINDS),
    _FRACTION,
    _FRACTION,
    st.one_of(st.integers(-64, 64), st.sampled_from((-4096, 4096, 1 << 31))),
)

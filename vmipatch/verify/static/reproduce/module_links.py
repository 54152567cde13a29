# SPDX-License-Identifier: MIT
"""The labels and relocations by which a loader links what was added to a module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from vmipatch.image.module import ModuleRegions
from vmipatch.image.relocations import R_386_32, R_386_PC32, RAW_REL
from vmipatch.image.symbols import STT_SECTION, SYMBOL
from vmipatch.verify.static.added import FALLBACK, PAIR, THUNK_CALLS
from vmipatch.verify.static.bodies import RECORD_SECTIONS
from vmipatch.verify.static.reproduce.added import AddedPart
from vmipatch.verify.static.symbols import GLOBAL_NOTYPE, NEW_SECTION_START
from vmipatch.verify.static.translations import TRANSLATIONS
from vmipatch.vmi.record import NATIVE_VA_OFF, NEAR_CALL_LEN, RECORD_LEN, TRANSLATION_VA_OFF


class Links:
    """Symbols while labels are added: one for each part, one where a section has none."""

    def __init__(self, entries: np.ndarray, names: bytes, regions: ModuleRegions) -> None:
        self._rows = [entries]
        self.names = bytearray(names)
        self._regions = regions
        marks = np.flatnonzero(entries["info"] & 15 == STT_SECTION)
        self._symbol_of = {int(entries["shndx"][i]): i for i in marks.tolist()}

    @property
    def symbols(self) -> np.ndarray:
        """All entries, dtype SYMBOL, values linked."""
        return np.concatenate(self._rows)

    def label(self, part: AddedPart) -> None:
        """The symbol at the start of a part."""
        self._symbol_of[self._regions.index_at(part.va)] = self._add(part.symbol, part.va)

    def relocations(self, part: AddedPart, thunks: bytes, first: AddedPart) -> bytes:
        """Those of one part; of code, which is `first`, `thunks`."""
        if part is first:
            return thunks
        if part.name == TRANSLATIONS:
            ends = len(part.data) - NEAR_CALL_LEN + 1
            places = np.arange(NEAR_CALL_LEN, ends, NEAR_CALL_LEN, dtype=np.int64) + part.va + 1
            symbol = self._symbol_of[self._regions.index_at(first.va)]
            rows = [(va, symbol << 8 | R_386_PC32) for va in places.tolist()]
        else:
            rows = [(va, self._symbol_at(held) << 8 | R_386_32) for va, held in _words(part)]
        return np.array(rows, RAW_REL).tobytes()

    def _symbol_at(self, va: int) -> int:
        """The symbol at the start of the section that holds `va`."""
        index = self._regions.index_at(va)
        if index not in self._symbol_of:
            name = f"{NEW_SECTION_START}{index}"
            self._symbol_of[index] = self._add(name, self._regions.va(index))
        return self._symbol_of[index]

    def _add(self, name: str, va: int) -> int:
        number = sum(map(len, self._rows))
        row = (len(self.names), va, 0, GLOBAL_NOTYPE, 0, self._regions.index_at(va))
        self._rows.append(np.array([row], SYMBOL))
        self.names += name.encode() + b"\0"
        return number


def _words(part: AddedPart) -> Iterator[tuple[int, int]]:
    """Address and value of each word of records or pairs that holds an address."""
    fields: Sequence[int] = (0,)
    length = PAIR.size
    if part.name in RECORD_SECTIONS:
        fields, length = (NATIVE_VA_OFF, TRANSLATION_VA_OFF), RECORD_LEN
    assert part.name in (*RECORD_SECTIONS, THUNK_CALLS, FALLBACK), part.name
    for at in range(0, len(part.data), length):
        for field in fields:
            held = part.data[at + field : at + field + 4]
            yield part.va + at + field, int.from_bytes(held, "little")

# SPDX-License-Identifier: MIT
"""By which symbol does a recovered relocation say how its word moves? That of a section, mostly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vmipatch.image.relocations import R_386_32, RAW_REL
from vmipatch.image.types import Section
from vmipatch.recover.references import References
from vmipatch.recover.tables import I64

PAGE = 0x1000


class SectionSymbols:
    """The sections in memory, and which rows of a symbol table stand for them."""

    def __init__(self, sections: Sequence[Section]) -> None:
        """Take the sections of a file; a caller with a table fills in its rows."""
        self.memory = sorted(
            (s for s in sections if s.is_alloc and s.size), key=lambda s: (s.va, s.index)
        )
        self._starts = np.array([s.va for s in self.memory], np.int64)
        self.of_section: dict[int, int] = {}
        self.of_name: dict[str, int] = {}

    def section_of(self, va: int) -> Section | None:
        """The section that holds `va` or ends in front of it."""
        at = int(np.searchsorted(self._starts, va, side="right")) - 1
        if at < 0:
            return None
        section = self.memory[at]
        if va < section.end_va or (va - section.end_va < PAGE and at + 1 < len(self.memory)):
            return section
        return section if va == section.end_va else None

    def relocations(self, section: Section, references: References) -> bytes:
        """Elf32_Rel entries of the words of one section."""
        places = references.places
        inside = np.flatnonzero((places >= section.va) & (places < section.end_va))
        symbols = self._symbols_of(references.targets[inside])
        symbols[references.doubtful[inside]] = self._unmoved
        for place, name in references.biased.items():
            symbols[places[inside] == place] = self.of_name[name]
        rows = np.zeros(len(inside), dtype=RAW_REL)
        rows["offset"], rows["info"] = places[inside], symbols << 8 | R_386_32
        return rows.tobytes()

    @property
    def _unmoved(self) -> int:
        """The symbol of a section that never moves: of data."""
        return next(self.of_section[s.index] for s in self.memory if not s.is_exec)

    def _symbols_of(self, vas: I64) -> I64:
        """The symbol of the section that holds each address or ends there, else `_unmoved`."""
        at = np.searchsorted(self._starts, vas, side="right") - 1
        ends = np.array([s.end_va for s in self.memory], np.int64)
        symbols = np.array([self.of_section[s.index] for s in self.memory], np.int64)
        inside = (at >= 0) & (vas <= ends[np.maximum(at, 0)])
        return np.where(inside, symbols[np.maximum(at, 0)], self._unmoved)

# SPDX-License-Identifier: MIT
"""Which stretch of the output belongs to which stretch of the original?

A chunk is what lies between two symbols. The same symbol, by its index, gives the chunk's start in
both files, so that code is found wherever it was moved to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vmipatch.image.ascending import among
from vmipatch.image.elf import ElfImage
from vmipatch.image.symbols import SHN_ABS, STT_FUNC, SymbolTable
from vmipatch.image.types import Section
from vmipatch.verify.static.rules import CHUNK_LOST
from vmipatch.verify.static.side import I64
from vmipatch.verify.static.verdict import Report


@dataclass(frozen=True, slots=True, eq=False)
class Chunks:
    """Parallel arrays, ordered by place in the output: [o_va, o_end) became [p_va, p_end)."""

    o_va: I64
    o_end: I64
    p_va: I64
    p_end: I64

    def __len__(self) -> int:
        return len(self.o_va)

    def new_start(self, o_va: I64) -> I64:
        """Where chunks that begin at original addresses went, -1 where none begins."""
        order = np.argsort(self.o_va, kind="stable")
        at = np.searchsorted(self.o_va[order], o_va)
        found = order[np.minimum(at, len(order) - 1)]
        return np.where(self.o_va[found] == o_va, self.p_va[found], -1)


def correspond(original: ElfImage, output: ElfImage, inner: I64, report: Report) -> Chunks:
    """The chunks of all executable sections of `original`, and where they are in `output`.

    Symbols must have been checked to be as many, or more, in the output. Those at `inner` name
    parts of instructions: no chunk begins there.
    """
    starts: list[tuple[int, int, int]] = []
    kept = {s.index for s in original.executable_sections}
    there = [s for s in output.executable_sections if s.index in kept]
    for section in original.executable_sections:
        for o_va, o_end, p_va in _of_section(original, output, section, inner):
            if any(s.va <= p_va <= s.end_va for s in there):
                starts.append((p_va, o_va, o_end))
            else:
                place = original.symbols.place_of(o_va)
                report.add(
                    CHUNK_LOST, p_va, f"{place} is not in an executable section of the output"
                )
    starts.sort()
    rows = np.array(starts, np.int64).reshape(-1, 3)
    ends = np.array([_end_of(there, int(va)) for va in rows[:, 0]], np.int64)
    following = np.append(rows[1:, 0], np.iinfo(np.int64).max)
    return Chunks(rows[:, 1], rows[:, 2], rows[:, 0], np.minimum(ends, following))


def _of_section(
    original: ElfImage, output: ElfImage, section: Section, inner: I64
) -> list[tuple[int, int, int]]:
    """(start, end, new start) of each chunk of one section of the original."""
    entries, moved = original.symbols.entries, output.symbols.entries
    value = entries["value"].astype(np.int64)
    mine = (entries["shndx"] == section.index) & (value >= section.va) & (value < section.end_va)
    which = np.flatnonzero(mine & ~among(value, inner))
    # Of several symbols at one address the function tells: a label may mark a boundary that stays.
    rank = entries["info"][which] & 15 != STT_FUNC
    which = which[np.lexsort((which, rank, value[which]))]
    first = np.ones(len(which), np.bool_)
    first[1:] = value[which][1:] != value[which][:-1]
    which = which[first]
    o_va = value[which]
    p_va = moved["value"][which].astype(np.int64)
    if not len(o_va) or o_va[0] != section.va:
        o_va = np.insert(o_va, 0, section.va)
        p_va = np.insert(p_va, 0, output.sections[section.index].va)
    o_end = np.append(o_va[1:], section.end_va)
    return list(zip(o_va.tolist(), o_end.tolist(), p_va.tolist(), strict=True))


def _end_of(sections: list[Section], va: int) -> int:
    """End of the section that holds `va`; `va` itself where one ends there and none begins."""
    for section in sections:
        if section.va <= va < section.end_va:
            return section.end_va
    return va


def has_symbols(table: SymbolTable) -> bool:
    """Whether there is a symbol with an address."""
    shndx = table.entries["shndx"]
    return bool(((shndx > 0) & (shndx < SHN_ABS)).any())

# SPDX-License-Identifier: MIT
"""What must every word that refers to an address hold once that address has moved?

Branches are led by emit_code, tables by their own emitters; here are the words of the relocation
sections. A word is worth symbol + addend, and which of the two moves is the question:

- symbol of a section of code: the sum is an instruction, it moves as that instruction does;
- function or label, sum inside it: likewise;
- function or label, sum outside (`irq_entries_start - 0x100`): a biased base, it moves with the
  symbol;
- anything in other sections: moves with the section;
- absolute symbols: stay, unless they lie in the image and are no checksums.

A value below the page offset is a physical address; its virtual twin decides. So it does for a
linked address plus the page offset, which code adds to its own physical address (lguest).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vmipatch.errors import UnclassifiedReference
from vmipatch.image.ascending import among, distinct
from vmipatch.image.elf import ElfImage
from vmipatch.image.physical import virtual_distances
from vmipatch.image.relocations import R_386_32
from vmipatch.image.symbols import SHN_ABS
from vmipatch.isa.decode import Shape
from vmipatch.limits import Limit
from vmipatch.rewrite.placement import Placement
from vmipatch.scan.code import CodeMap
from vmipatch.tables.emit import emit
from vmipatch.tables.table import U32, Order, TableName

STT_SECTION = 3
WORD_MASK = 0xFFFFFFFF
TOLD_BY_TABLE = (TableName.MCOUNT, TableName.RUNTIME_CONSTANTS)
"""Tables of any order whose words need no relocation: theirs may be wrong, or left over."""


@dataclass(frozen=True, slots=True, eq=False)
class Words:
    """Words to write: their new addresses (i64) and values (u32), in parallel."""

    va: np.ndarray
    value: np.ndarray

    def redirected(
        self,
        values: Mapping[int, int],
        placement: Placement,
        out_of_line: Mapping[int, int],
    ) -> Words:
        """The same words; those that were at the addresses `values` names hold its values."""
        value = self.value.copy()
        old = np.array(list(values), np.int64)
        new_places = places_of(old, placement, out_of_line).tolist()
        for new_va, new_value in zip(new_places, values.values(), strict=True):
            value[self.va == new_va] = new_value
        return Words(self.va, value)


def lead_relocations(
    code_map: CodeMap, placement: Placement, out_of_line: Mapping[int, int] | None = None
) -> Words:
    """New places and values of all relocated words that are no branches.

    `out_of_line` are new places of words that are not where the layout has them.
    Raises UnclassifiedReference for a word of which no rule says what it means.
    """
    entries = _without_branches(code_map)
    places = entries["va"].astype(np.int64)
    new_places = places_of(places, placement, out_of_line or {})
    absolute = entries["kind"] == R_386_32
    sums = entries["value"].astype(np.int64) + np.where(absolute, 0, places)
    targets = _Targets(code_map, placement, entries, sums & WORD_MASK)
    moved = targets.moved()
    values = moved - np.where(absolute, 0, new_places)
    return Words(new_places, (values & WORD_MASK).astype(np.uint32))


def places_of(vas: np.ndarray, placement: Placement, out_of_line: Mapping[int, int]) -> np.ndarray:
    """The new places of words at `vas` (i64), some of which are out of line."""
    result = placement.map(vas)
    for old_va, new_va in out_of_line.items():
        result[vas == old_va] = new_va
    return result


def require_words_whole(code_map: CodeMap, placement: Placement) -> None:
    """Raise UnclassifiedReference if a relocated word would be torn apart.

    It is the operand of one instruction, or lies in data: else it is not a word.
    """
    entries = code_map.relocations.entries
    va = entries["va"].astype(np.int64)
    torn = placement.map(va + 3) - placement.map(va) != 3
    for place in va[torn][:1].tolist():
        raise UnclassifiedReference(
            "a relocated word is not an operand of one instruction",
            file=code_map.image.name,
            place=f"{place:#x} ({code_map.image.symbols.place_of(place)})",
            hint="code may hold data that no symbol names: report such a kernel",
        )


def lead_tables(code_map: CodeMap, placement: Placement) -> Words:
    """New places and values of the address words of all tables of the kernel."""

    def move(vas: U32) -> U32:
        return placement.map(vas).astype(np.uint32)

    emissions = []
    for table in code_map.tables:
        emission = emit(table, move, move)
        if not emission.in_order:
            raise UnclassifiedReference(
                f"the entries of {table.name.value} would change their order",
                place=f"{table.start_va:#x}",
                hint="report this kernel: a function was moved across another",
            )
        emissions.append(emission)
    return Words(
        np.concatenate([e.va.astype(np.int64) for e in emissions] or [np.zeros(0, np.int64)]),
        np.concatenate([e.value for e in emissions] or [np.zeros(0, np.uint32)]),
    )


def _without_branches(code_map: CodeMap) -> np.ndarray:
    """The relocations but those of branches, and but those whose symbol the kernel build spoilt.

    The build sorts some tables after the link: there the words are right, the relocations name
    other functions or are left where an entry was emptied, and the table says all there is to say.
    """
    entries = code_map.relocations.entries
    places = entries["va"].astype(np.int64)
    skip = [
        stream.starts[index].astype(np.int64) + stream.lens[index] - 4
        for stream in code_map.streams.values()
        for index in (stream.branches[stream.branch_widths == 4],)
    ]
    keep = ~among(places, distinct(np.concatenate(skip)))
    for table in code_map.tables:
        if table.order is Order.SORTED or table.name in TOLD_BY_TABLE:
            keep &= (places < table.start_va) | (places >= table.end_va)
    return entries[keep]


class _Targets:
    """The targets of the words: symbol, sum, and where the sum moves."""

    def __init__(
        self, code_map: CodeMap, placement: Placement, entries: np.ndarray, sums: np.ndarray
    ) -> None:
        image = code_map.image
        self._map = placement.map
        self._code_map = code_map
        self._image = image
        self._entries = entries
        symbols = image.symbols.entries[entries["symbol"]]
        distance = virtual_distances(image)[entries["symbol"]]
        self._base = symbols["value"].astype(np.int64) + distance
        self._size = symbols["size"].astype(np.int64)
        self._of_section = (symbols["info"] & 15) == STT_SECTION
        self._in_code = np.isin(symbols["shndx"], list(placement.changes))
        low, high = image_range(image)
        outside = (self._base < low) | (self._base >= high)
        outside |= image.symbols.is_number[entries["symbol"]]
        self._absolute = outside & (symbols["shndx"] >= SHN_ABS)
        twin = sums + code_map.page_offset
        physical = (sums < low) & (low <= twin) & (twin <= high)
        self._bias = np.where(physical, code_map.page_offset, 0)
        back = (sums - code_map.page_offset) & WORD_MASK
        added = ~physical & ((sums < low) | (sums > high)) & (low <= back) & (back <= high)
        self._bias = np.where(added, back - sums, self._bias)
        self._sums = sums + self._bias

    def moved(self) -> np.ndarray:
        """Where each sum leads in the new image (i64)."""
        addend = self._sums - self._base
        inside = (addend >= 0) & (addend <= self._size)
        as_instruction = self._in_code & (self._of_section | inside)
        self._reject(as_instruction & self._of_section)
        self._reject_operands(as_instruction)
        with_symbol = self._map(self._base) + addend
        result = np.where(as_instruction, self._map(self._sums), with_symbol)
        return np.where(self._absolute, self._sums, result) - self._bias

    def _reject(self, of_code_section: np.ndarray) -> None:
        """Refuse sums of a section symbol of code that lie outside of that section."""
        stray = of_code_section & ~self._within_sections()
        if stray.any():
            entry = self._entries[np.flatnonzero(stray)[0]]
            raise UnclassifiedReference(
                "a word refers to a section of code and points outside of it",
                file=self._image.name,
                place=self._image.symbols.place_of(int(entry["va"])),
                hint="only the source can tell what it means: report this kernel",
            )

    def _reject_operands(self, as_instruction: np.ndarray) -> None:
        """Refuse sums inside of an instruction, but those that a label names there."""
        which = np.flatnonzero(as_instruction)
        sums, named = self._sums[which], self._code_map.inner_labels
        for _, stream in self._code_map:
            starts = stream.starts.astype(np.int64)
            over = np.searchsorted(starts, sums, side="right") - 1
            within = (sums >= stream.va) & (sums < stream.end_va) & (starts[over] != sums)
            within &= (stream.shapes[over] == Shape.CODE) & ~np.isin(over, stream.opaque)
            for index in which[within & ~np.isin(sums, named)][:1].tolist():
                raise UnclassifiedReference(
                    f"a word points into the instruction before {int(self._sums[index]):#x}",
                    file=self._image.name,
                    place=self._image.symbols.place_of(int(self._entries[index]["va"])),
                    hint=Limit.REFERENCE.remedy,
                )

    def _within_sections(self) -> np.ndarray:
        shndx = self._image.symbols.entries["shndx"][self._entries["symbol"]]
        result = np.zeros(len(shndx), dtype=bool)
        for index in np.flatnonzero(np.bincount(shndx)).tolist():
            if index < len(self._image.sections):
                section = self._image.sections[index]
                chosen = shndx == index
                sums = self._sums[chosen]
                result[chosen] = (section.va <= sums) & (sums <= section.end_va)
        return result


def image_range(image: ElfImage) -> tuple[int, int]:
    """First linked address of the image, and the first after it."""
    loads = list(image.loads)
    return min(s.va for s in loads), max(s.va + s.mem_len for s in loads)

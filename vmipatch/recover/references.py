# SPDX-License-Identifier: MIT
"""What may refer to code, in a kernel whose relocations are gone, and what must not move for it?

Every absolute address is in the relocation list: the kernel could not be moved at boot without.
Branches are found by decoding, distances in the tables by the tables. Two doubts remain, and what
they concern stays where it is:

- a word of the list need not be a pointer to what lies there. `irq_entries_start - 0x100` points
  into another function, and moves with the symbol that only the source knows. A word of code is
  believed if it is an immediate that points to a function or label, or to an instruction of its
  own function, or if it is all of the address of data among the code, which is never executed; a
  word of data, if an instruction begins there. Words that Linux adds to are told by value
  (vmipatch.recover.bases). A word that is added to and points to an instruction of its own function
  keeps this function in place. Around any other, all code stays.
- a word of data might be a distance to code in a table that is not known. Where an aligned word is
  the distance to an instruction, this instruction stays (vmipatch.recover.distances).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from vmipatch.image.elf import ElfImage
from vmipatch.isa.word_use import WordUse, word_use
from vmipatch.recover.bases import Bases
from vmipatch.recover.code import I64, Flags, RecoveredCode, merged
from vmipatch.recover.distances import possible_distances
from vmipatch.tables.table import Tables

BIAS = 0x1000
"""Bytes around a doubtful word that stay. A bias is a vector number (below 256) times a stride of
8 or 16, or an offset into a page of code that is copied."""
WORD_LEN = 4


@dataclass(frozen=True, slots=True, eq=False)
class References:
    """The words of the relocation list, and what stays."""

    places: I64
    """Addresses of the words, ascending."""
    targets: I64
    """Their targets, as linked addresses (physical words made virtual)."""
    doubtful: Flags
    """Which words keep their value, as everything around does."""
    biased: Mapping[int, str]
    """Words that are biased bases of known arrays: place and symbol."""
    fixed: tuple[tuple[int, int], ...]
    """Ranges of code that stay: half-open, ascending, disjoint; empty ones are single addresses."""


def find_references(
    image: ElfImage,
    code: RecoveredCode,
    relocs: I64,
    bases: Bases,
    understood: Iterable[tuple[int, int]],
) -> References:
    """The words at `relocs` and what stays; words of the `understood` ranges are no distances."""
    targets = _targets(image, code, relocs)
    judged = _judge(code, relocs, targets, bases)
    distances = possible_distances(image, code, relocs, merged(understood))
    around_words = around(code, targets[judged.doubtful])
    alone = [(va, va) for va in distances.tolist()]
    fixed = merged([*around_words, *judged.functions, *alone])
    return References(relocs, targets, judged.doubtful | judged.kept, judged.biased, fixed)


def _targets(image: ElfImage, code: RecoveredCode, relocs: I64) -> I64:
    """The linked addresses that the words at `relocs` stand for."""
    page_offset = image.page_offset
    values = _words_at(image, relocs)
    low = min(s.va for s in image.loads)
    targets = np.where(values < low, values + page_offset, values)
    # What code adds to its own physical address to get a linked one.
    linked = (values - page_offset) & 0xFFFFFFFF
    added = ~code.within(targets) & code.within(linked) & (page_offset > 0)
    return np.where(added, linked, targets)


@dataclass(frozen=True, slots=True, eq=False)
class _Judged:
    """Words that are no pointers, by what stays for their sake."""

    doubtful: Flags
    """All code around."""
    kept: Flags
    """Nothing, or their own function: they keep their value."""
    biased: dict[int, str]
    functions: list[tuple[int, int]]
    """Functions that stay."""


def _judge(code: RecoveredCode, relocs: I64, targets: I64, bases: Bases) -> _Judged:
    """The words that point to code and need not be pointers to what is there."""
    into_code = code.within(targets)
    in_code = np.zeros(len(relocs), np.bool_)
    for stream in code.streams:
        in_code |= (relocs >= stream.va) & (relocs < stream.end_va)
    ends = np.array([stream.end_va for stream in code.streams], np.int64)
    # What ends a section ends it wherever it ends.
    into_code &= ~(np.isin(targets, ends) & ~code.begins(targets))
    doubtful = into_code & ~in_code & ~code.begins(targets)
    result = _Judged(doubtful, np.zeros(len(relocs), np.bool_), {}, [])
    pointed_to = frozenset(targets[into_code & ~in_code].tolist())
    for index in np.flatnonzero(into_code & in_code).tolist():
        place, target = int(relocs[index]), int(targets[index])
        use = _use_of(code, place)
        is_immediate = use is WordUse.IMMEDIATE
        named = bases.compared if is_immediate else bases.named
        if target in bases.kept:
            result.kept[index] = True
        elif target in named:
            result.biased[place] = named[target]
        elif target in bases.biased or not _is_pointer(code, place, target, use, pointed_to):
            own = code.extent_of(target) if use is WordUse.PART else (0, 0)
            if own[0] <= place < own[1] and code.begins(np.array([target], np.int64))[0]:
                result.kept[index] = True
                result.functions.append(own)
            else:
                doubtful[index] = True
    return result


def _use_of(code: RecoveredCode, place: int) -> WordUse:
    """The use that an instruction makes of its word at `place`."""
    stream = code.stream_at(place)
    assert stream is not None, "the place lies in code"
    index = stream.index_over(place)
    return word_use(stream.bytes_at(index), place - int(stream.starts[index]))


def _is_pointer(
    code: RecoveredCode, place: int, target: int, use: WordUse, pointed_to: frozenset[int]
) -> bool:
    """Whether the word at `place` of code stands for just what is at `target`.

    `pointed_to` are the targets of words of data: what is called through a pointer is executed.
    """
    both = np.array([place, target], np.int64)
    mine, its = code.function_of(both).tolist()
    if use is WordUse.IMMEDIATE:
        return target == its or (mine == its and bool(code.begins(both)[1]))
    is_data = target not in pointed_to and not code.is_executed(target)
    return use is WordUse.DATA and target == its and is_data


def around(code: RecoveredCode, vas: I64) -> list[tuple[int, int]]:
    """Whole functions within BIAS of each address, cut at the ends of its section."""
    result = []
    for va in vas.tolist():
        for stream in code.streams:
            low, high = max(va - BIAS, stream.va), min(va + BIAS, stream.end_va)
            if low < high:
                start = max(int(code.function_of(np.array([low], np.int64))[0]), stream.va)
                result.append((start, high))
    return result


def extents(tables: Tables) -> list[tuple[int, int]]:
    """The ranges of data in which every word is understood."""
    return [(t.start_va, t.end_va) for t in tables if not t.in_code]


def _words_at(image: ElfImage, vas: I64) -> I64:
    """The u32 words at addresses that sections of the file hold."""
    octets = np.frombuffer(image.data, np.uint8)
    offs = np.full(len(vas), -1, np.int64)
    for section in image.allocated_sections:
        if section.has_bytes:
            inside = (vas >= section.va) & (vas + WORD_LEN <= section.end_va)
            offs[inside] = vas[inside] - section.va + section.off
    if (offs < 0).any():
        image.offset_of(int(vas[np.flatnonzero(offs < 0)[0]]))
    result = np.zeros(len(vas), np.int64)
    for shift in range(WORD_LEN):
        result |= octets[offs + shift].astype(np.int64) << (8 * shift)
    return result

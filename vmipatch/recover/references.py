# SPDX-License-Identifier: MIT
"""What may refer to code, in a kernel whose relocations are gone, and what must not move for it?

Every absolute address is in the relocation list: the kernel could not be moved at boot without.
Branches are found by decoding, distances in the tables by the tables. Two doubts remain, and what
they concern stays where it is:

- a word of the list need not be a pointer to what lies there. `irq_entries_start - 0x100` points
  into another function, and moves with the symbol that only the source knows. A word of code is
  believed if it is an immediate that leads to a function or label, or to an instruction of its
  own function, or if it is all of the address of data among the code, which nobody executes; a
  word of data, if it leads to an instruction. Around any other, all code stays.
- a word of data might be a distance to code in a table that nobody knows of. Wherever an aligned
  word, read so, leads to an instruction, this instruction stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vmipatch.image.ascending import distinct
from vmipatch.image.elf import ElfImage
from vmipatch.isa.decode import Flow, InstructionStream, Shape, WordUse, word_use
from vmipatch.tables.table import Tables

I64 = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
BIAS = 0x1000
"""Bytes around a doubtful word that stay. A bias is a vector number (below 256) times a stride of
8 or 16, or an offset into a page of code that is copied."""
WORD_LEN = 4


@dataclass(frozen=True, slots=True)
class Stub:
    """An array of entry stubs: a base of it is biased by the vector that its first entry pushes."""

    symbol: str
    va: int
    bias: int

    @property
    def biased_va(self) -> int:
        """The word that code adds a multiple of the stride to."""
        return self.va - self.bias


@dataclass(frozen=True, slots=True, eq=False)
class References:
    """The words of the relocation list, and what stays."""

    places: I64
    """Addresses of the words, ascending."""
    targets: I64
    """What they lead to, as linked addresses (physical words made virtual)."""
    doubtful: Flags
    """Which words keep their value, as everything around does."""
    biased: Mapping[int, str]
    """Words that are biased bases of known arrays: place and symbol."""
    fixed: tuple[tuple[int, int], ...]
    """Ranges of code that stay: half-open, ascending, disjoint; empty ones are single addresses."""


class Code:
    """All code of an image, for questions about many addresses at once."""

    def __init__(self, streams: Iterable[InstructionStream], functions: I64) -> None:
        """Take the decoded sections in address order, and the addresses of functions."""
        self.streams = tuple(streams)
        self.functions = functions
        self._starts = np.concatenate([s.starts.astype(np.int64) for s in self.streams])

    def within(self, vas: I64) -> Flags:
        """Which addresses lie in a section of code, or at its end."""
        result = np.zeros(len(vas), np.bool_)
        for stream in self.streams:
            result |= (vas >= stream.va) & (vas <= stream.end_va)
        return result

    def begins(self, vas: I64) -> Flags:
        """Which addresses are the first of an instruction."""
        at = np.minimum(np.searchsorted(self._starts, vas), len(self._starts) - 1)
        return np.asarray(self._starts[at] == vas)

    def function_of(self, vas: I64) -> I64:
        """Start of the function that holds each address, 0 in front of the first."""
        at = np.searchsorted(self.functions, vas, side="right") - 1
        return np.where(at >= 0, self.functions[np.maximum(at, 0)], 0)

    def is_executed(self, va: int) -> bool:
        """Whether a branch leads to `va`, or the instruction in front of it runs on."""
        stream = self.stream_at(va)
        if stream is None:
            return False
        before = stream.index_over(va) - 1
        runs_on = before >= 0 and (
            Flow(int(stream.flows[before])) not in (Flow.STOP, Flow.JUMP)
            and int(stream.shapes[before]) == Shape.CODE
        )
        return runs_on or any(bool((s.branch_targets == va).any()) for s in self.streams)

    def stream_at(self, va: int) -> InstructionStream | None:
        """The section that holds `va`."""
        return next((s for s in self.streams if s.va <= va < s.end_va), None)


def classify(
    image: ElfImage, code: Code, relocs: I64, page_offset: int, stubs: Iterable[Stub]
) -> tuple[I64, Flags, dict[int, str]]:
    """Targets of the words at `relocs`, which are doubtful, and which are known biased bases."""
    values = _words_at(image, relocs)
    low = min(s.va for s in image.loads)
    targets = np.where(values < low, values + page_offset, values)
    # What code adds to its own physical address to get a linked one.
    linked = (values - page_offset) & 0xFFFFFFFF
    added = ~code.within(targets) & code.within(linked) & (page_offset > 0)
    targets = np.where(added, linked, targets)
    into_code = code.within(targets)
    in_code = np.zeros(len(relocs), np.bool_)
    for stream in code.streams:
        in_code |= (relocs >= stream.va) & (relocs < stream.end_va)
    ends = np.array([stream.end_va for stream in code.streams])
    # What ends a section ends it wherever it ends.
    into_code &= ~(np.isin(targets, ends) & ~code.begins(targets))
    doubtful = into_code & ~in_code & ~code.begins(targets)
    bases = {stub.biased_va: stub.symbol for stub in stubs if stub.bias}
    biased: dict[int, str] = {}
    pointed_to = frozenset(targets[into_code & ~in_code].tolist())
    for index in np.flatnonzero(into_code & in_code).tolist():
        place, target = int(relocs[index]), int(targets[index])
        use = _use_of(code, place)
        if target in bases and use is not WordUse.IMMEDIATE:
            biased[place] = bases[target]
        elif target in bases or not _is_pointer(code, place, target, use, pointed_to):
            doubtful[index] = True
    return targets, doubtful, biased


def _use_of(code: Code, place: int) -> WordUse:
    """What the instruction of which the word at `place` is a part makes of it."""
    stream = code.stream_at(place)
    assert stream is not None, "the place lies in code"
    index = stream.index_over(place)
    return word_use(stream.bytes_at(index), place - int(stream.starts[index]))


def _is_pointer(
    code: Code, place: int, target: int, use: WordUse, pointed_to: frozenset[int]
) -> bool:
    """Whether the word at `place` of code stands for just what is at `target`.

    `pointed_to` is what words of data lead to: whoever is called through a pointer is executed.
    """
    both = np.array([place, target])
    mine, its = code.function_of(both).tolist()
    if use is WordUse.IMMEDIATE:
        return target == its or (mine == its and bool(code.begins(both)[1]))
    is_data = target not in pointed_to and not code.is_executed(target)
    return use is WordUse.DATA and target == its and is_data


def around(code: Code, vas: I64) -> list[tuple[int, int]]:
    """Whole functions within BIAS of each address, cut at the ends of its section."""
    result = []
    for va in vas.tolist():
        for stream in code.streams:
            low, high = max(va - BIAS, stream.va), min(va + BIAS, stream.end_va)
            if low < high:
                start = max(int(code.function_of(np.array([low]))[0]), stream.va)
                result.append((start, high))
    return result


def possible_distances(
    image: ElfImage, code: Code, relocs: I64, understood: Iterable[tuple[int, int]]
) -> I64:
    """Instructions to which an aligned word of data leads if it is a distance from itself.

    Words of the list and of `understood` ranges are none.
    """
    result = [np.zeros(0, np.int64)]
    ranges = np.array(merged(understood) or ((0, 0),), np.int64)
    for section in image.allocated_sections:
        if section.is_exec or not section.has_bytes or section.size < WORD_LEN:
            continue
        first_va = -(-section.va // WORD_LEN) * WORD_LEN
        count = (section.end_va - first_va) // WORD_LEN
        places = first_va + WORD_LEN * np.arange(count, dtype=np.int64)
        words = image.words(first_va, first_va + WORD_LEN * count).astype(np.int64)
        known = np.zeros(count, np.bool_)
        listed = relocs[(relocs > first_va - WORD_LEN) & (relocs < section.end_va)] - first_va
        known[np.maximum(listed // WORD_LEN, 0)] = True
        known[np.minimum((listed + WORD_LEN - 1) // WORD_LEN, count - 1)] = True
        at = np.maximum(np.searchsorted(ranges[:, 0], places, side="right") - 1, 0)
        known |= (places >= ranges[at, 0]) & (places < ranges[at, 1])
        leads_to = (places + words) & 0xFFFFFFFF
        leads_to = leads_to[~known]
        leads_to = leads_to[code.within(leads_to)]
        result.append(leads_to[code.begins(leads_to)])
    return distinct(np.concatenate(result))


def extents(tables: Tables) -> list[tuple[int, int]]:
    """The ranges of data in which every word is understood."""
    return [(t.start_va, t.end_va) for t in tables if not t.in_code]


def merged(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The same addresses as ascending, disjoint ranges."""
    result: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(result[-1][1], end))
        else:
            result.append((start, end))
    return tuple(result)


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

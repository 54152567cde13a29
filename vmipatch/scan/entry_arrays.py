# SPDX-License-Identifier: MIT
"""Which functions may be entered by computed addresses, so that their distances must stay?

KVM's emulator calls `em_add + 8 * log2(size)` and `em_setcc + 4 * condition` (FASTOP_SIZE and
SETCC_ALIGN of arch/x86/kvm/emulate.c, 4.17 to 6.1: 4, 8 or 16 bytes). Each operation and size is a
function of its own there, and references name the first. What can be seen is functions at equal
distances, each aligned to that; one more symbol, which is a second name of the first or a function
that holds them all (a label at a section's start is the section's); and an entry that nothing
refers to: it is entered so, or never. Functions that only look like that are kept as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vmipatch.image.ascending import among
from vmipatch.image.elf import ElfImage
from vmipatch.image.symbols import SHN_ABS, STT_FUNC, STT_NOTYPE

STRIDES = (4, 8, 16, 32)
LEAST = 3
"""Entries of an array: with two there is one distance, which is equal to any."""
CACHE_LINE = 64
"""The largest alignment of an entry that is kept."""


@dataclass(frozen=True, slots=True)
class EntryArray:
    """Functions at one distance, or at several where arrays share an entry."""

    start_va: int
    """The first entry, or the function around it."""
    last_va: int
    """The last entry. It begins where it did, and its length does not matter."""
    align: int
    """The array moves by a multiple of that: no entry of it loses an alignment."""

    def with_other(self, other: EntryArray) -> EntryArray:
        """Both as one, which begins with this one."""
        last_va, align = max(self.last_va, other.last_va), max(self.align, other.align)
        return EntryArray(self.start_va, last_va, align)


def entry_arrays(image: ElfImage, referred: np.ndarray) -> list[EntryArray]:
    """All arrays of `image`, ascending; none shares an address with another.

    `referred` are the addresses that branches, words of data and static calls refer to,
    ascending (i64).
    """
    found: list[EntryArray] = []
    for one in sorted(_each(image, referred), key=lambda array: array.start_va):
        if found and one.start_va <= found[-1].last_va:
            found[-1] = found[-1].with_other(one)
        else:
            found.append(one)
    return found


def _each(image: ElfImage, referred: np.ndarray) -> Iterator[EntryArray]:
    symbols = image.symbols
    entries = symbols.entries
    kinds, shndx = entries["info"] & 15, entries["shndx"]
    named = (shndx > 0) & (shndx < SHN_ABS) & ~symbols.is_local_label
    named &= (kinds == STT_FUNC) | (kinds == STT_NOTYPE)
    for section in image.executable_sections:
        here = named & (shndx == section.index)
        bounds = here & (kinds == STT_NOTYPE) & (entries["value"] == section.va)
        names = np.sort(entries["value"][here & ~bounds].astype(np.int64))
        functions = entries[here & (kinds == STT_FUNC)]
        functions = functions[np.lexsort((functions["size"], functions["value"]))]
        vas, first = np.unique(functions["value"].astype(np.int64), return_index=True)
        if len(vas) < LEAST:
            continue
        longest = np.append(first[1:], len(functions)) - 1
        ends = vas + functions["size"][longest]
        has_alias = np.searchsorted(names, vas, "right") - np.searchsorted(names, vas) > 1
        is_referred = among(vas, referred)
        for low, high in _runs(vas):
            if is_referred[low + 1 : high].all():
                continue
            start = _start(vas, ends, has_alias, low, high)
            if start is not None:
                yield _array(start, vas[low:high])


def _runs(vas: np.ndarray) -> Iterator[tuple[int, int]]:
    """Indexes [low, high) of the longest runs at equal distances; one may begin with an end."""
    distances = np.diff(vas)
    edges = np.flatnonzero(np.diff(distances)) + 1
    starts, ends = np.append(0, edges), np.append(edges, len(distances))
    for low, high in zip(starts.tolist(), ends.tolist(), strict=True):
        stride = int(distances[low])
        if high - low + 1 >= LEAST and stride in STRIDES and int(vas[low]) % stride == 0:
            yield low, high + 1


def _start(
    vas: np.ndarray, ends: np.ndarray, has_alias: np.ndarray, low: int, high: int
) -> int | None:
    """Where the array in the run [low, high) of `vas` begins; None if nothing says it is one."""
    for index in range(low, high - LEAST + 1):
        around = np.flatnonzero(ends[: index + 1] > vas[index + LEAST - 1])
        if len(around):
            return int(vas[around[-1]])
        if has_alias[index]:
            return int(vas[index])
    return None


def _array(start_va: int, run: np.ndarray) -> EntryArray:
    kept = np.append(start_va, run[run > start_va])
    align = int(np.minimum(kept & -kept, CACHE_LINE).max())
    return EntryArray(start_va, int(run[-1]), align)

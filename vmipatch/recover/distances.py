# SPDX-License-Identifier: MIT
"""Which words of data might be distances to code, in a table that is not known?

Nothing says what a word of data is. Wherever one that is aligned is the distance from itself to an
instruction, this instruction has to stay. Compilers make no such words for
i386; assembly does, in tables, and so do macros for single functions (initcalls, exported symbols).
In sections that hold variables, a distance into a function is a number nevertheless

- if it is alone: an entry of a table that names an instruction by its distance has another such
  word, for what becomes of it (a fixup, a target, a key, a replacement, a file). Tables of single
  words (.smp_locks, runtime_ptr_*) have sections of their own, or more words of their kind;
- or if its value is frequent: equal words would be distances to instructions as far apart as
  the words are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vmipatch.image.ascending import among, distinct
from vmipatch.image.elf import ElfImage
from vmipatch.image.types import Section
from vmipatch.recover.code import I64, Flags, RecoveredCode

WORD_LEN = 4
VARIABLES = (".rodata", ".data", ".init.data")
"""Sections of Linux's linker script that hold variables, and tables among them."""
COMPANY_LEN = 16
"""How far from each other two words of an entry may be, in bytes."""
FAR_LEN = 0x1000
"""Less is a small number."""
FREQUENT = 4
"""So many equal words of a section are numbers."""


def possible_distances(
    image: ElfImage, code: RecoveredCode, relocs: I64, understood: Sequence[tuple[int, int]]
) -> I64:
    """Instructions to which an aligned word of data leads if it is a distance from itself.

    Words of the list and of `understood` ranges (ascending, disjoint) are none.
    """
    result = [np.zeros(0, np.int64)]
    ranges = np.array(understood or ((0, 0),), np.int64)
    for section in image.allocated_sections:
        if section.is_exec or not section.has_bytes or section.size < WORD_LEN:
            continue
        places, words = _words_of(image, section)
        free = _unlisted(places, relocs)
        at = np.maximum(np.searchsorted(ranges[:, 0], places, side="right") - 1, 0)
        free &= (places < ranges[at, 0]) | (places >= ranges[at, 1])
        target = (places + words) & 0xFFFFFFFF
        possible = free & code.within(target)
        possible[possible] = code.begins(target[possible])
        if section.name in VARIABLES:
            possible &= among(target, code.functions) | _in_entries(image, words, target, free)
        result.append(target[possible])
    return distinct(np.concatenate(result))


def _words_of(image: ElfImage, section: Section) -> tuple[I64, I64]:
    """Addresses and values of the aligned words of a section."""
    first_va = -(-section.va // WORD_LEN) * WORD_LEN
    count = (section.end_va - first_va) // WORD_LEN
    places = first_va + WORD_LEN * np.arange(count, dtype=np.int64)
    return places, image.words(first_va, first_va + WORD_LEN * count).astype(np.int64)


def _unlisted(places: I64, relocs: I64) -> Flags:
    """Which words share no byte with a word of the list."""
    free = np.ones(len(places), np.bool_)
    if len(places):
        first_va, end_va = int(places[0]), int(places[-1]) + WORD_LEN
        listed = relocs[(relocs > first_va - WORD_LEN) & (relocs < end_va)] - first_va
        free[np.maximum(listed // WORD_LEN, 0)] = False
        free[np.minimum((listed + WORD_LEN - 1) // WORD_LEN, len(places) - 1)] = False
    return free


def _in_entries(image: ElfImage, words: I64, target: I64, free: Flags) -> Flags:
    """Which of the `free` words have another possible distance near them, and a rare value."""
    far = (words >= FAR_LEN) & (words < (1 << 32) - FAR_LEN)
    distance = free & far & _within_memory(image, target)
    values, which, count = np.unique(words[distance], return_inverse=True, return_counts=True)
    if not len(values):
        return distance
    distance[distance] = count[which] < FREQUENT
    return distance & _have_company(distance)


def _within_memory(image: ElfImage, vas: I64) -> Flags:
    """Which addresses lie in a section that is loaded."""
    result = np.zeros(len(vas), np.bool_)
    for section in image.allocated_sections:
        result |= (vas >= section.va) & (vas < section.end_va)
    return result


def _have_company(which: Flags) -> Flags:
    """Which words have another one of `which` at most COMPANY_LEN bytes away."""
    result = np.zeros(len(which), np.bool_)
    for apart in range(1, min(COMPANY_LEN // WORD_LEN, len(which) - 1) + 1):
        result[apart:] |= which[:-apart]
        result[:-apart] |= which[apart:]
    return result

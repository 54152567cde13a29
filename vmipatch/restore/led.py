# SPDX-License-Identifier: MIT
"""Which words of the output lead somewhere, and what did they hold before everything moved?

Nothing is decoded: whatever looks like a branch, an address, a distance or an offset, and would
have held something else, is a question, and the note answers it by one bit. Most answers are yes,
so they cost next to nothing, and a note depends on no decoder and on no table of a kernel.

| in | looks like | is a question if |
| --- | --- | --- |
| code | `e8`, `e9`, `0f 8x` and 4 bytes | it leads into the kernel |
| code | `7x`, `e3`, `eb` and 1 byte | what it held fits into the byte |
| code, data | a word at any place; aligned, where the section is | it is an address in the kernel |
| data | the same | it is the distance to an address in the kernel |
| data | the same | it is the offset of one from the first address (kallsyms) |
| symbols, relocations, relocation list | an aligned word | it is an address in the kernel |
| symbols | the size | value and size are of something in the kernel |

The order of the questions is that of this file, section by section: a note of version 2 counts
on every detail of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from vmipatch.image.elf import ElfImage
from vmipatch.image.types import Section, SectionKind
from vmipatch.restore.runs import Origins, WithoutNote

WORD_LEN = 4

Judge = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
"""From offsets in the input, values that may have been there (i64) and their width in bytes to the
ones that were (bool)."""


def lead_back(body: WithoutNote, origins: Origins, result: np.ndarray, judge: Judge) -> None:
    """Write into `result`, bytes (u8) as the output has them at their old places, what they held.

    `judge` answers the questions, batch by batch.
    """
    back = _Back.of(body.image, origins)
    for offs, values, width in _questions(body, back):
        places = origins.of_words(offs, width)
        known = places >= 0
        yes = known.copy()
        yes[known] = judge(places[known], values[known], width)
        for byte in range(width):
            result[places[yes] + byte] = (values[yes] >> (8 * byte)) & 0xFF


@dataclass(frozen=True, slots=True, eq=False)
class _Back:
    """From addresses of the output to those of the input, and the range that counts."""

    starts: np.ndarray
    deltas: np.ndarray
    low: int
    high: int

    @classmethod
    def of(cls, output: ElfImage, origins: Origins) -> _Back:
        """Offsets and addresses of a section differ by the same number in both files."""
        starts, deltas = [np.zeros(1, np.int64)], [np.zeros(1, np.int64)]
        for section in output.allocated_sections:
            if section.has_bytes and section.size:
                at, moved = origins.moved(section.off, section.off + section.size)
                starts.append(at + section.va - section.off)
                deltas.append(moved)
        all_starts = np.concatenate(starts)
        order = np.argsort(all_starts, kind="stable")
        loads = list(output.loads)
        return cls(
            all_starts[order],
            np.concatenate(deltas)[order],
            min((s.va for s in loads), default=0),
            max((s.va + s.mem_len for s in loads), default=0),
        )

    def __call__(self, vas: np.ndarray) -> np.ndarray:
        at = np.searchsorted(self.starts, vas, side="right") - 1
        found: np.ndarray = vas + self.deltas[np.maximum(at, 0)]
        return found

    def holds(self, vas: np.ndarray) -> np.ndarray:
        """Which addresses lie in the kernel."""
        inside: np.ndarray = (vas >= self.low) & (vas < self.high)
        return inside


Batch = tuple[np.ndarray, np.ndarray, int]
"""Offsets in the output (i64), what may have been there (i64), width in bytes."""


def _questions(body: WithoutNote, back: _Back) -> Iterator[Batch]:
    octets = np.frombuffer(body.data, dtype=np.uint8)
    for section in body.image.sections:
        if not section.has_bytes or section.size < WORD_LEN:
            continue
        start, size = section.off, section.size
        if section.is_alloc and section.is_exec:
            yield from _branches(section, octets, back)
            yield from _addresses(start, size, body.data, back, 1)
        elif section.is_alloc:
            step = WORD_LEN if section.align >= WORD_LEN else 1
            yield from _addresses(start, size, body.data, back, step)
            yield from _distances(section, body.data, back, step)
            yield from _offsets(section, body.data, back, step)
        elif section.kind in (SectionKind.SYMTAB, SectionKind.REL):
            yield from _addresses(start, size, body.data, back, WORD_LEN)
            if section.kind is SectionKind.SYMTAB:
                yield from _sizes(section, body.data, back)
    list_len = len(body.data) - body.list_off
    yield from _addresses(body.list_off, list_len, body.data, back, WORD_LEN)


def _branches(section: Section, octets: np.ndarray, back: _Back) -> Iterator[Batch]:
    code = octets[section.off : section.off + section.size]
    near = np.flatnonzero((code[:-4] & 0xFE) == 0xE8)
    condition = np.flatnonzero((code[:-5] == 0x0F) & ((code[1:-4] & 0xF0) == 0x80))
    short = np.flatnonzero(((code[:-1] & 0xF0) == 0x70) | (code[:-1] == 0xE3) | (code[:-1] == 0xEB))
    for at, opcode_len in ((near, 1), (condition, 2)):
        held = _gathered(code, at + opcode_len).view(np.int32).astype(np.int64)
        yield _branch(section, at, opcode_len, held, WORD_LEN, back)
    yield _branch(section, short, 1, code[short + 1].view(np.int8).astype(np.int64), 1, back)


def _branch(
    section: Section, at: np.ndarray, opcode_len: int, held: np.ndarray, width: int, back: _Back
) -> Batch:
    length = opcode_len + width
    starts = at.astype(np.int64) + section.va
    targets = starts + length + held
    values = back(targets) - back(starts) - length
    limit = 1 << (8 * width - 1)
    asked = (values != held) & (values >= -limit) & (values < limit) & back.holds(targets)
    return (at + section.off + opcode_len)[asked], values[asked], width


def _gathered(code: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The u32 words at any places."""
    everywhere = np.ndarray(max(len(code) - 3, 0), "<u4", code, strides=(1,))
    words: np.ndarray = everywhere[at]
    return words


def _words(start: int, size: int, data: bytes, step: int) -> Iterator[tuple[np.ndarray, int]]:
    """The u32 words of a range at all multiples of `step`, and the offset of the first."""
    for off in range(start, min(start + WORD_LEN, start + size), step):
        count = (start + size - off) // WORD_LEN
        yield np.frombuffer(data, dtype="<u4", count=count, offset=off), off


def _asked(first_off: int, at: np.ndarray, held: np.ndarray, values: np.ndarray) -> Batch:
    other = values != held
    return at[other] * WORD_LEN + first_off, values[other], WORD_LEN


def _addresses(start: int, size: int, data: bytes, back: _Back, step: int) -> Iterator[Batch]:
    for words, off in _words(start, size, data, step):
        at = np.flatnonzero(back.holds(words))
        held = words[at].astype(np.int64)
        yield _asked(off, at, held, back(held))


def _distances(section: Section, data: bytes, back: _Back, step: int) -> Iterator[Batch]:
    for words, off in _words(section.off, section.size, data, step):
        places = np.arange(len(words), dtype=np.int64) * WORD_LEN + (off - section.off + section.va)
        targets = words + places.astype(np.uint32)
        at = np.flatnonzero(back.holds(targets))
        values = (back(targets[at].astype(np.int64)) - back(places[at])) & 0xFFFFFFFF
        yield _asked(off, at, words[at].astype(np.int64), values)


def _offsets(section: Section, data: bytes, back: _Back, step: int) -> Iterator[Batch]:
    for words, off in _words(section.off, section.size, data, step):
        at = np.flatnonzero(words < back.high - back.low)
        held = words[at].astype(np.int64)
        yield _asked(off, at, held, back(held + back.low) - back.low)


def _sizes(section: Section, data: bytes, back: _Back) -> Iterator[Batch]:
    count = section.size // 16
    rows = np.frombuffer(data, dtype="<u4", count=count * 4, offset=section.off).reshape(-1, 4)
    values, sizes = rows[:, 1].astype(np.int64), rows[:, 2].astype(np.int64)
    at = np.flatnonzero(back.holds(values) & (sizes > 0))
    was = back(values[at] + sizes[at]) - back(values[at])
    other = was != sizes[at]
    yield at[other] * 16 + section.off + 8, was[other] & 0xFFFFFFFF, WORD_LEN

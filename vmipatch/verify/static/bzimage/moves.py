# SPDX-License-Identifier: MIT
"""Where is each address of the original, as the output's note for `restore` has it?

A note tells which bytes of the output are bytes of the original. That is a proposal for an address
map: the symbols that a kernel in a bzImage lacks are made by it, and then proven like others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from vmipatch.image.elf import ElfImage
from vmipatch.image.types import Segment
from vmipatch.isa.second import instruction_len
from vmipatch.restore import Note, WithoutNote, padded_sites, placed

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class RangeMoves:
    """Ranges of addresses that moved as one, by original address: parallel arrays."""

    was: ElfImage = field(repr=False)
    now: ElfImage = field(repr=False)
    old_va: I64
    length: I64
    new_va: I64
    front: dict[int, int] = field(hash=False)
    """Where padding before an instruction ends in the output, and its length."""
    trailing: dict[int, int] = field(hash=False)
    """Where padding after an instruction begins, and its length."""

    @classmethod
    def of(cls, original: ElfImage, linked: ElfImage, body: WithoutNote, note: Note) -> RangeMoves:
        """Read the ranges that `note` copies from `body` into the file `original`.

        `linked` is the same kernel with section headers, which that in a bzImage may lack. Bytes
        that no segment loads are left out. Raises MalformedTable and MalformedImage if the records
        of `body` are damaged.
        """
        runs, pads = placed(body, note)
        was, now = list(original.loads), list(body.image.loads)
        rows: list[tuple[int, int, int]] = []
        at = 0
        for run in runs:
            at += run.literal_len
            rows += _loaded(was, now, at, run.out_off, run.copy_len)
            at += run.copy_len
        old_va, length, new_va = np.array(sorted(rows), np.int64).reshape(-1, 3).T
        heads = {site.off for site in padded_sites(body.image)}
        places = [(off, _va(now, off), size) for off, size in pads]
        front = {va + size: size for off, va, size in places if off in heads}
        trailing = {va: size for off, va, size in places if off not in heads}
        return cls(linked, body.image, old_va, length, new_va, front, trailing)

    def __call__(self, vas: I64) -> I64:
        """Where what begins at each of `vas` begins now, with padding that stands before it."""
        result = self.inside(vas)
        is_start = np.isin(vas, self.old_va)
        for index in np.flatnonzero(is_start).tolist():
            result[index] -= self.front.get(int(result[index]), 0)
        return result

    def inside(self, vas: I64) -> I64:
        """Where the bytes at each of `vas` are; the same below the first range."""
        at = np.searchsorted(self.old_va, vas, side="right") - 1
        known = np.maximum(at, 0)
        # Between two ranges something stands that the output has in another form: its start is
        # where the range before it ends, and it is not looked into.
        result: I64 = np.where(at < 0, vas, self.new_va[known] + vas - self.old_va[known])
        return result

    def ends(self, vas: I64) -> I64:
        """Where what ends at each of `vas` ends now: before the padding of what follows."""
        result = self.inside(vas - 1) + 1
        at = np.maximum(np.searchsorted(self.old_va, vas - 1, side="right") - 1, 0)
        gone = vas > self.old_va[at] + self.length[at]
        for index, end in enumerate(result.tolist()):
            result[index] += self.trailing.get(end, 0)
        for index in np.flatnonzero(gone).tolist():
            first = int(at[index])
            result[index] = self._end_after(first, int(vas[index]))
        return result

    def _end_after(self, range_index: int, end_va: int) -> int:
        """Where what follows a range and ends at `end_va` ends now.

        That is branches that became near, and filler, which may have gone.
        """
        length = int(self.length[range_index])
        old, new = int(self.old_va[range_index]) + length, int(self.new_va[range_index]) + length
        while old < end_va:
            code = _code_at(self.was, old)
            old += instruction_len(code) or end_va - old
            if code[:1] in _SHORT_BRANCHES:
                new += instruction_len(_code_at(self.now, new))
        return new


_SHORT_BRANCHES = frozenset(bytes((code,)) for code in (*range(0x70, 0x80), 0xEB))
_LONGEST = 15
"""Bytes of an instruction at most."""


def _code_at(image: ElfImage, va: int) -> bytes:
    """The bytes of at least one instruction at `va`, none outside of the file's."""
    section = image.section_at(va)
    if section is None or not section.has_bytes:
        return b""
    return image.read(va, min(_LONGEST, section.end_va - va))


def _loaded(
    was: Sequence[Segment], now: Sequence[Segment], start: int, out: int, count: int
) -> Iterator[tuple[int, int, int]]:
    """The loaded parts of a range of file offsets: old address, length, new address."""
    for old in was:
        low, high = max(start, old.off), min(start + count, old.off + old.file_len)
        if low < high:
            new_va = _va(now, out + low - start)
            if new_va >= 0:
                yield low - old.off + old.va, high - low, new_va


def _va(loads: Sequence[Segment], off: int) -> int:
    """The address of the byte at a file offset, -1 if it is not loaded."""
    return next((off - s.off + s.va for s in loads if s.off <= off < s.off + s.file_len), -1)

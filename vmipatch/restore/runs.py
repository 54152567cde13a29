# SPDX-License-Identifier: MIT
"""Which bytes of the output are bytes of the input, and where were they?

A file is described as runs: some bytes that the output lacks, then some that are copied from it.
Of the padding in sites nothing is stored: records of the output tell where it is. The note answers
two questions of each: is it the rewriter's, and is it in front of the instruction or after it?
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from vmipatch.errors import MalformedImage
from vmipatch.image.ascending import distinct
from vmipatch.image.consistency import DAMAGED
from vmipatch.image.elf import SECTION_HEADER_LEN, SHOFF_AT, ElfImage
from vmipatch.image.trim import OFFSET_IN_HEADER
from vmipatch.image.types import Section, SectionKind
from vmipatch.restore.note import SECTION
from vmipatch.vmi.record import unpack_records

FILLED_TO = 15
"""Functions begin at multiples of 16."""
PLACE_LEN = 8
"""Offset and size of a section, the two words of its header (gABI, Elf32_Shdr)."""
RECORDS = (".vmi.annotation", ".vmi.annotation.init")


class CopyRun(NamedTuple):
    """`literal_len` bytes that the output lacks, then `copy_len` bytes at `out_off` of it."""

    literal_len: int
    out_off: int
    copy_len: int


@dataclass(frozen=True, slots=True)
class WithoutNote:
    """A rewritten kernel without its note."""

    image: ElfImage
    data: bytes = field(repr=False)
    """The file up to the note, then the relocation list that follows it in a bzImage."""
    list_off: int
    """Where the list begins in `data`."""

    @classmethod
    def of(cls, image: ElfImage, end_off: int, listed: bytes) -> WithoutNote:
        """`image` up to the place of its note, and the list.

        Where the note stands and how long it is, its section's header tells; here both are 0, as
        they are before there is a note: what is copied must not depend on it.
        Raises MalformedImage if something that a note describes stands after it.
        """
        for section in image.sections:
            described = section.is_alloc or section.kind in (SectionKind.REL, SectionKind.SYMTAB)
            if described and section.has_bytes and section.off + section.size > end_off:
                raise MalformedImage(
                    "it does not stand in front of the note",
                    file=image.name,
                    place=section.name,
                    hint=DAMAGED,
                )
        data = bytearray(image.data[:end_off])
        if (note := image.section_by_name.get(SECTION)) is not None:
            at = place_in_header(image, note)
            if at < end_off:
                data[at : at + PLACE_LEN] = bytes(PLACE_LEN)
        return cls(image, bytes(data) + listed, end_off)


def place_in_header(image: ElfImage, section: Section) -> int:
    """File offset of the words of a section's header that tell its place and its length."""
    (headers,) = struct.unpack_from("<I", image.data, SHOFF_AT)
    return int(headers) + SECTION_HEADER_LEN * section.index + OFFSET_IN_HEADER


class PaddedSite(NamedTuple):
    """A padded native body: where it is in the output, its length, and that of its padding."""

    off: int
    length: int
    pad_len: int


def padded_sites(output: ElfImage) -> list[PaddedSite]:
    """The sites of the output that were padded, by their records, in the order of the file.

    Raises MalformedTable and MalformedImage if records are damaged.
    """
    sites = []
    for name in RECORDS:
        section = output.section_by_name.get(name)
        if section is None:
            continue
        for record in unpack_records(output.section_bytes(section), name, output.name):
            if 0 < record.pad_len <= record.native_len:
                off = output.offset_of(record.native_va)
                sites.append(PaddedSite(off, record.native_len, record.pad_len))
    return sorted(sites)


Pads = Sequence[tuple[int, int]]
"""Offset in the output and length of padding that the rewriter put into sites, by offset."""


def pads_of(
    sites: Sequence[PaddedSite], is_new: Sequence[bool], is_in_front: Sequence[bool]
) -> list[tuple[int, int]]:
    """The padding of sites, where it is the rewriter's."""
    return sorted(
        (site.off if in_front else site.off + site.length - site.pad_len, site.pad_len)
        for site, new, in_front in zip(sites, is_new, is_in_front, strict=True)
        if new
    )


def without_padding(runs: Sequence[CopyRun], pads: Pads) -> list[CopyRun]:
    """The runs without the padding in them."""
    return [part for run in runs for part in _split(run, pads)]


Stops = Sequence[int]
"""Offsets in the output, ascending, where a run is likely to end."""
_LEAVES = ((b"\xc3", 1), (b"\xe9", 5), (b"\xeb", 2), (b"\x0f\x0b", 2))
"""RET, JMP and UD2: how they begin, how long they are."""


def stops_of(body: WithoutNote) -> list[int]:
    """Where filler may begin: after whatever looks like an instruction that never goes on."""
    octets = np.frombuffer(body.data, np.uint8)
    found = [np.zeros(0, np.int64)]
    for section in body.image.executable_sections:
        code = octets[section.off : section.off + section.size]
        for opcode, length in _LEAVES:
            looks = code[: len(code) - len(opcode) + 1] == opcode[0]
            for at in range(1, len(opcode)):
                looks = looks & (code[at : at + len(looks)] == opcode[at])
            found.append(np.flatnonzero(looks) + section.off + length)
    stops: list[int] = distinct(np.concatenate(found)).tolist()
    return stops


def told(runs: Sequence[CopyRun], pads: Pads, stops: Stops) -> list[tuple[int, int, int]]:
    """The runs in small numbers: most of what the output lacks is filler up to a multiple of 16.

    Of each run how many bytes more it lacks than that, the way to it from the end of the one
    before, and twice the number of stops up to its end, or twice its length and one.
    """
    scale = _Scale(pads)
    rows = []
    for run in runs:
        end = run.out_off + run.copy_len
        first, last = bisect_right(stops, run.out_off), bisect_right(stops, end)
        is_stop = last > first and stops[last - 1] == end
        extent = 2 * (last - first) if is_stop else 2 * run.copy_len + 1
        rows.append((run.literal_len - scale.filler_len, run.out_off - scale.out_end, extent))
        scale.go_on(run)
    return rows


def decode_runs(rows: Iterable[tuple[int, int, int]], pads: Pads, stops: Stops) -> list[CopyRun]:
    """The runs that `told` gave these rows for; a stop that does not exist is at -1."""
    scale = _Scale(pads)
    runs = []
    for lacking, way, extent in rows:
        out_off = way + scale.out_end
        copy_len = extent >> 1
        if not extent & 1:
            at = bisect_right(stops, out_off) + copy_len - 1
            copy_len = (stops[at] if 0 <= at < len(stops) else -1) - out_off
        runs.append(CopyRun(lacking + scale.filler_len, out_off, copy_len))
        scale.go_on(runs[-1])
    return runs


class _Scale:
    """How far both files have been described."""

    def __init__(self, pads: Pads) -> None:
        self._pads = pads
        self._lens = [0, *accumulate(length for _, length in pads)]
        self._in_end = self.out_end = 0

    @property
    def filler_len(self) -> int:
        """Bytes of the input up to where a function may begin."""
        return -self._in_end & FILLED_TO

    def go_on(self, run: CopyRun) -> None:
        """Past a run, of which the padding is not in the input."""
        self.out_end = run.out_off + run.copy_len
        first, following = (bisect_left(self._pads, (at, 0)) for at in (run.out_off, self.out_end))
        self._in_end += run.literal_len + run.copy_len - self._lens[following] + self._lens[first]


def by_length(literals: bytes, runs: Sequence[CopyRun]) -> bytes:
    """The bytes that the runs lack, the shortest pieces first: equal filler stands together."""
    ends = list(accumulate(run.literal_len for run in runs))
    return b"".join(
        literals[ends[i] - runs[i].literal_len : ends[i]] for i in _order_of_length(runs)
    )


def in_file_order(literals: bytes, runs: Sequence[CopyRun]) -> bytes:
    """The bytes for which `by_length` gave these."""
    pieces, at = [b""] * len(runs), 0
    for i in _order_of_length(runs):
        pieces[i] = literals[at : at + runs[i].literal_len]
        at += runs[i].literal_len
    return b"".join(pieces)


def _order_of_length(runs: Sequence[CopyRun]) -> list[int]:
    return sorted(range(len(runs)), key=lambda i: runs[i].literal_len)


def _split(run: CopyRun, pads: Pads) -> Iterator[CopyRun]:
    literal_len, at, copy_len = run
    end = at + copy_len
    for off, length in pads[bisect_left(pads, (at, 0)) : bisect_left(pads, (end, 0))]:
        if off < at:
            continue  # records that overlap: what comes out is not what was promised
        yield CopyRun(literal_len, at, off - at)
        literal_len, at = 0, off + length
    yield CopyRun(literal_len, at, max(end - at, 0))


@dataclass(frozen=True, slots=True, eq=False)
class Origins:
    """Where bytes of the output were in the input: ranges (i64) in the order of the output."""

    out_off: np.ndarray
    in_off: np.ndarray
    length: np.ndarray

    @classmethod
    def of(cls, runs: Sequence[CopyRun]) -> Origins:
        """The ranges that `runs` copy."""
        rows = np.array(runs, dtype=np.int64).reshape(-1, 3)
        ends = np.cumsum(rows[:, 0] + rows[:, 2])
        rows = np.column_stack([rows[:, 1], ends - rows[:, 2], rows[:, 2]])[rows[:, 2] > 0]
        rows = rows[np.argsort(rows[:, 0], kind="stable")]
        return cls(rows[:, 0], rows[:, 1], rows[:, 2])

    def of_words(self, offs: np.ndarray, width: int) -> np.ndarray:
        """Where the `width` bytes at each of `offs` were; -1 if they were not together."""
        if not len(self.out_off):
            return np.full(len(offs), -1, dtype=np.int64)
        at = np.maximum(np.searchsorted(self.out_off, offs, side="right") - 1, 0)
        inside = offs - self.out_off[at]
        whole = (inside >= 0) & (inside + width <= self.length[at])
        found: np.ndarray = np.where(whole, self.in_off[at] + inside, -1)
        return found

    def moved(self, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
        """Where in [low, high) of the output another shift begins, and input minus output there."""
        at = max(int(np.searchsorted(self.out_off, low, side="right")) - 1, 0)
        chosen = slice(at, int(np.searchsorted(self.out_off, high)))
        return np.maximum(self.out_off[chosen], low), (self.in_off - self.out_off)[chosen]

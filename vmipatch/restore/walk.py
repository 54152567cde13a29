# SPDX-License-Identifier: MIT
"""Which stretches of the input are in the output, and where?"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from vmipatch.image.elf import SECTION_HEADER_LEN, SHOFF_AT, ElfImage
from vmipatch.image.types import Section
from vmipatch.restore.runs import CopyRun, PaddedSite, WithoutNote

ADDED_CODE = ".vmi.text"


class Resized(Protocol):
    """`old_len` bytes at `va` of the input became `new_len` bytes."""

    @property
    def va(self) -> int:
        """Address in the input."""

    @property
    def old_len(self) -> int:
        """Bytes of the input."""

    @property
    def new_len(self) -> int:
        """Bytes of the output."""


class SideBySide:
    """Both files side by side, in the order of the input."""

    def __init__(
        self,
        target: ElfImage,
        body: WithoutNote,
        resized: Sequence[Resized],
        sites: Sequence[PaddedSite],
    ) -> None:
        self._target, self._body, self._output = target, body, body.image
        self._resized = resized
        self._sites = {(site.off, site.length) for site in sites}
        self._bodies: dict[int, bytes] = {}
        """Original bytes of sites by their offset in the output."""
        self._rows: list[CopyRun] = []
        self._literal_len = 0
        self._old = self._new = 0
        """How far both files have been described."""

    def runs(self, listed: bytes) -> list[CopyRun]:
        """Runs that give the target and its relocation list, padding of sites included."""
        pairs = list(_paired(self._target, self._output))
        loaded = [(s, t) for s, t in pairs if s.is_alloc and s.has_bytes and s.size]
        for was, now in sorted(loaded, key=lambda pair: pair[0].off):
            self._loaded(was, now)
        others = [
            (s.off, s.size, t.off, t.size) for s, t in pairs if not s.is_alloc and s.has_bytes
        ]
        others.append((*_headers(self._target), *_headers(self._output)))
        for off, size, new_off, new_size in sorted(others):
            self._other(off, size, new_off, min(size, new_size))
        self._lacking(len(self._target.data))
        self._list(len(listed))
        self._lacking(len(self._target.data) + len(listed))
        self._rows.append(CopyRun(self._literal_len, 0, 0))
        return self._rows

    def has_grown(self, site: PaddedSite) -> bool:
        """Whether its padding is new; some sites already had room for a call."""
        return site.off in self._bodies

    def is_padded_in_front(self, site: PaddedSite) -> bool:
        """Whether the original bytes of a site stand after its padding."""
        code = self._output.data[site.off + site.pad_len : site.off + site.length]
        return self._bodies.get(site.off) == code

    def _loaded(self, was: Section, now: Section) -> None:
        """A section in memory, and the gap in front of it."""
        if was.off < self._old or now.off < self._new:
            return  # sections that share bytes: what is missing is told later
        if was.off - self._old == now.off - self._new:
            self._copy(was.off - self._old)
        else:
            self._lacking(was.off)
            self._new = now.off
        first = bisect_left(self._resized, was.va, key=lambda r: r.va)
        for change in self._resized[first:]:
            if change.va >= was.end_va:
                break
            self._copy(was.off + change.va - was.va - self._old)
            self._change(change)
        self._copy(was.off + was.size - self._old)

    def _change(self, change: Resized) -> None:
        end = self._old + change.old_len
        # A function that begins with a site may follow filler of which nothing is left.
        if (self._new, change.new_len) in self._sites:
            self._bodies[self._new] = self._target.data[self._old : end]
            self._append(change.new_len)
            self._old = end
        else:
            self._lacking(end)
        self._new += change.new_len

    def _other(self, off: int, size: int, new_off: int, common: int) -> None:
        """Something that is not loaded: copied if it is alike, otherwise missing."""
        if off < self._old:
            return
        self._lacking(off)
        was = np.frombuffer(self._target.data, np.uint8, common, off)
        now = np.frombuffer(self._output.data, np.uint8, common, new_off)
        if common and 2 * int((was == now).sum()) > common:
            self._new = new_off
            self._copy(common)
        self._lacking(off + size)

    def _list(self, length: int) -> None:
        """The relocation list, without the words of the added code."""
        words = np.frombuffer(self._body.data, "<u4", offset=self._body.list_off)
        added = self._output.section_by_name.get(ADDED_CODE)
        low, high = (added.va, added.end_va) if added else (0, 0)
        first, following = np.searchsorted(words, (low, high)).tolist()
        if 4 * (len(words) - following + first) == length:
            self._new = self._body.list_off
            self._copy(4 * first)
            self._new += 4 * (following - first)
            self._copy(length - 4 * first)

    def _copy(self, length: int) -> None:
        self._append(length)
        self._old += length
        self._new += length

    def _append(self, length: int) -> None:
        """`length` bytes of the output from where it has been described to."""
        last = self._rows[-1] if self._rows else None
        if last and not self._literal_len and last.out_off + last.copy_len == self._new:
            self._rows[-1] = last._replace(copy_len=last.copy_len + length)
        elif length:
            self._rows.append(CopyRun(self._literal_len, self._new, length))
            self._literal_len = 0

    def _lacking(self, end: int) -> None:
        """Bytes of the input up to `end` that the output does not have."""
        self._literal_len += end - self._old
        self._old = end


def _paired(target: ElfImage, output: ElfImage) -> Iterator[tuple[Section, Section]]:
    """Sections of both files with the same name."""
    for section in target.sections:
        other = output.section_by_name.get(section.name)
        if other is not None and target.section_by_name[section.name] is section:
            yield section, other


def _headers(image: ElfImage) -> tuple[int, int]:
    """Offset and length of the section headers."""
    (off,) = struct.unpack_from("<I", image.data, SHOFF_AT)
    return off, SECTION_HEADER_LEN * len(image.sections)

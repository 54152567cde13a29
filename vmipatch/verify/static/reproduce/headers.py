# SPDX-License-Identifier: MIT
"""ELF header, program headers, section headers and the names of sections."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vmipatch.image.elf import ElfImage
from vmipatch.image.hook import records_in_room
from vmipatch.verify.static.comparison import Comparison
from vmipatch.verify.static.reproduce.added import AddedPart
from vmipatch.verify.static.reproduce.heads import (
    ENTRY,
    FILE_HEAD,
    LOAD,
    PHNUM,
    READ,
    SEGMENT_HEAD,
    SHNUM,
    SHOFF,
    file_head,
)
from vmipatch.verify.static.reproduce.layout import Layout
from vmipatch.verify.static.room import PAGE


def name_table(names: Sequence[str]) -> tuple[bytes, dict[str, int]]:
    """The table of the names of sections, each once, in the order of the sections; and where."""
    table, at = bytearray(b"\0"), {"": 0}
    for name in names:
        if name not in at:
            at[name] = len(table)
            table += name.encode() + b"\0"
    return bytes(table), at


def file_header(original: ElfImage, new: Layout, shoff: int, segments: int, sections: int) -> bytes:
    """The ELF header: the original's, but for the entry and for place and number of headers."""
    head = file_head(original)
    if original.segments:
        head[ENTRY] = _entry(original, new)
    head[SHOFF], head[PHNUM], head[SHNUM] = shoff, segments, sections
    return FILE_HEAD.pack(*head)


def _entry(image: ElfImage, new: Layout) -> int:
    """Where the loader enters: a linked address, or the physical one of it."""
    if image.section_at(image.entry):
        return new.moves.one(image.entry)
    holders = (s for s in image.loads if s.pa <= image.entry < s.pa + s.mem_len)
    offset = next((s.va - s.pa for s in holders), 0)
    return new.moves.one(image.entry + offset) - offset


def segment_headers(
    comparison: Comparison, new: Layout, records: Sequence[AddedPart], off: int
) -> np.ndarray:
    """The program headers, dtype SEGMENT_HEAD; that of the records, which are at `off`, is last,
    if they have one of their own.
    """
    if records_in_room(comparison.manifest.start):
        return new.segments
    load = next(comparison.inputs.original.loads)
    start_va = records[0].va
    length = records[-1].end_va - start_va
    last = (LOAD, off, start_va, start_va - load.va + load.pa, length, length, READ, PAGE)
    return np.append(new.segments, np.array([last], SEGMENT_HEAD))

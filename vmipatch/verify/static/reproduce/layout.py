# SPDX-License-Identifier: MIT
"""Where does everything lie in the output, by the changes of the code and the shift alone?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vmipatch.image.elf import ElfImage
from vmipatch.image.types import Section
from vmipatch.verify.static.comparison import Comparison
from vmipatch.verify.static.outline import TRAMPOLINES
from vmipatch.verify.static.reproduce.decisions import Change
from vmipatch.verify.static.reproduce.heads import LOAD, section_heads, segment_heads
from vmipatch.verify.static.reproduce.moves import Moves
from vmipatch.verify.static.room import PAGE, TEXT
from vmipatch.verify.static.sites import LAID_OUT

INIT_TEXT = ".init.text"
ROOM_ALIGN = 16
"""Alignment of thunks and runtime."""

Pieces = list[tuple[int, int]]


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The new layout of what the original has."""

    moves: Moves
    heads: np.ndarray
    """The section headers of the original, dtype SECTION_HEAD, with new addresses, offsets and
    sizes of sections that are loaded."""
    segments: np.ndarray
    """Its program headers likewise, dtype SEGMENT_HEAD."""
    cut_off: int
    """Offset in the original at which the bytes of a shift are put in."""
    shift_len: int
    loaded_len: int
    """Bytes of the original's file up to the last that is loaded."""
    memory_len: int
    """Bytes of the output up to the last that is loaded of what the original has."""
    room: tuple[int, int]
    """Addresses between which thunks and runtime lie."""
    trampolines: tuple[int, int]
    """Address and bytes of the code that is out of line."""
    records_va: int
    stride: int = 0
    """How far apart the sections of records begin; 0: one right after the other."""


def layout(comparison: Comparison, changes: Sequence[Change]) -> Layout:
    """Lay the original out anew with `changes`."""
    image = comparison.inputs.original
    shift_len, end_va = comparison.manifest.shift_len, _room_end(image)
    grown = Growth(comparison.original, changes)
    text = image.section_by_name[TEXT]
    out_of_line = comparison.original.section_by_name.get(TRAMPOLINES)
    out_len = 0 if out_of_line is None else out_of_line.size + grown.of(out_of_line)
    room = -(-(text.end_va + grown.of(text)) // ROOM_ALIGN) * ROOM_ALIGN
    out_va = end_va + shift_len - out_len
    pieces = [*grown.pieces(text, 0), (text.end_va, shift_len)]
    pieces += _second_part(image, grown)
    init_pieces, tails = _initial(image, grown, shift_len)
    pieces += init_pieces
    if out_of_line is not None:
        # What lies further up, outside of the kernel, moves as if this was not there.
        moved = Moves.of(pieces).one(out_of_line.end_va) - out_of_line.end_va
        pieces += grown.pieces(out_of_line, out_va - out_of_line.va)
        pieces.append((out_of_line.end_va, moved))
    cut_off = text.off + end_va - text.va
    heads = _sections(image, grown, cut_off, shift_len, tails)
    loaded_len = max(load.off + load.file_len for load in image.loads)
    last_va = max(load.va + load.mem_len for load in image.loads) + shift_len
    return Layout(
        Moves.of(pieces),
        heads,
        _segments(image, heads, cut_off, shift_len),
        cut_off,
        shift_len,
        loaded_len,
        max([max(loaded_len, cut_off) + shift_len, *_code_ends(image, heads).values()]),
        (room, out_va),
        (out_va, out_len),
        -(-last_va // PAGE) * PAGE,
    )


class Growth:
    """By how much each section grows."""

    def __init__(self, image: ElfImage, changes: Sequence[Change]) -> None:
        self._changes: dict[int, list[Change]] = {}
        for change in changes:
            # What stands at the end of a section, as filler may, is part of it.
            section = image.section_at(change.va) if change.old_len else None
            section = section or image.section_at(change.va - 1)
            if section is not None:
                self._changes.setdefault(section.index, []).append(change)

    def of(self, section: Section) -> int:
        """Bytes that are added to one section; negative if it shrinks."""
        return sum(change.grown for change in self._changes.get(section.index, ()))

    def pieces(self, section: Section, moved: int) -> Pieces:
        """Where in one section, which moves by `moved`, addresses begin to move otherwise."""
        result = [(section.va, moved)]
        for change in self._changes.get(section.index, ()):
            moved += change.grown
            result.append((change.va + change.old_len, moved))
        return result


def _second_part(image: ElfImage, grown: Growth) -> Pieces:
    """Those of the part of .text after a border, which stays where it is."""
    found: Pieces = []
    for section in image.sections:
        if section.name in LAID_OUT - {TEXT, INIT_TEXT}:
            found += [*grown.pieces(section, 0), (section.end_va, 0)]
    return found


def _initial(image: ElfImage, grown: Growth, shift_len: int) -> tuple[Pieces, dict[int, int]]:
    """Those of .init.text, and how far the sections of code right after it move for its sake."""
    section = image.section_by_name.get(INIT_TEXT)
    if section is None:
        return [], {}
    followers, next_va = _followers(image, section)
    drift = grown.of(section)
    align = max((s.align for s in followers), default=1)
    tail = -(-max(drift, 0) // align) * align
    pieces = grown.pieces(section, shift_len)
    pieces.append((section.end_va, shift_len + (tail if followers else drift)))
    pieces.append((next_va, shift_len))
    return pieces, {s.index: tail for s in followers}


def _followers(image: ElfImage, init: Section) -> tuple[list[Section], int]:
    """The sections of code right after `init`, and where the next other section begins."""
    found: list[Section] = []
    for section in image.allocated_sections:
        if section.va < init.end_va or section.index == init.index:
            continue
        if not section.is_exec:
            return found, section.va
        found.append(section)
    return found, init.end_va


def _sections(
    image: ElfImage, grown: Growth, cut_off: int, shift_len: int, tails: dict[int, int]
) -> np.ndarray:
    """The original's headers; addresses of what is not loaded move too, if it has any."""
    heads = section_heads(image)
    text = image.section_by_name[TEXT]
    after = [s.is_alloc and s.va >= text.end_va for s in image.sections]
    moved = np.where((heads["off"].astype(np.int64) >= cut_off) | after, shift_len, 0)
    for section in image.sections:
        head = heads[section.index]
        shift = int(moved[section.index]) + tails.get(section.index, 0)
        if section.is_alloc or section.va:
            head["va"] = (section.va + shift) & 0xFFFFFFFF
        head["off"] = section.off + shift
        if section.is_alloc and section.is_exec and section.has_bytes:
            head["size"] = section.size + grown.of(section)
    return heads


def _segments(image: ElfImage, heads: np.ndarray, cut_off: int, shift_len: int) -> np.ndarray:
    """The original's program headers: what follows .text moves, that of .text grows."""
    result = segment_heads(image)
    text_off = image.section_by_name[TEXT].off
    for row in result:
        off, length = int(row["off"]), int(row["file_len"])
        if off >= cut_off:
            for column in ("off", "va", "pa"):
                row[column] += shift_len
        elif off <= text_off < off + length:
            # If nothing follows .text the segment used to end before its last page does.
            added = max(cut_off - off - length, 0) + shift_len
            row["file_len"] += added
            row["mem_len"] += added
    for row in result:
        if row["kind"] == LOAD:
            _reach(row, _code_ends(image, heads))
    return result


def _code_ends(image: ElfImage, heads: np.ndarray) -> dict[int, int]:
    """Offset at which each section of code ends in the output, by the one at which it begins."""
    code = heads[[s.index for s in image.executable_sections]]
    return {int(h["off"]): int(h["off"]) + int(h["size"]) for h in code}


def _reach(row: np.void, code: Mapping[int, int]) -> None:
    """Let a segment reach to the end of code in it that grew at its end."""
    start = int(row["off"])
    end = start + int(row["file_len"])
    for off, code_end in code.items():
        if start <= off < end:
            end = max(end, code_end)
    if end - start != row["file_len"]:
        row["file_len"] = end - start
        row["mem_len"] = max(int(row["mem_len"]), end - start)


def _room_end(image: ElfImage) -> int:
    """Where the last page of .text ends, or the next section begins in it."""
    text = image.section_by_name[TEXT]
    page_end = -(-text.end_va // PAGE) * PAGE
    after = (s.va for s in image.allocated_sections if s.va >= text.end_va and s.size)
    return min(page_end, *after, page_end)

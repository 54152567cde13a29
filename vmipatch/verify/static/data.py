# SPDX-License-Identifier: MIT
"""Is everything that is neither code nor a reference still the same?"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from vmipatch.image.elf import ElfImage
from vmipatch.image.types import Section, SectionKind
from vmipatch.tables.table import Tables
from vmipatch.verify.static.comparison import Comparison, judges
from vmipatch.verify.static.images import NOWHERE
from vmipatch.verify.static.rules import (
    DATA_CHANGED,
    SECTION_HEADER,
    STALE_IDENTITY,
    UNLOADED_CHANGED,
)
from vmipatch.verify.static.side import I64, U8, WORD, file_offsets, loaded_part
from vmipatch.verify.static.table_facts import covered_words, sorted_ranges
from vmipatch.verify.static.verdict import Report

LINKAGE = (SectionKind.REL, SectionKind.SYMTAB, SectionKind.STRTAB, SectionKind.NULL)
"""Sections whose contents have rules of their own."""
NOTE_HEADER = struct.Struct("<III")
NT_GNU_BUILD_ID = 3
"""The note of owner `GNU` that identifies a linked file (ld, --build-id)."""


@dataclass(frozen=True, slots=True, eq=False)
class _Masked:
    """The loaded part of both files; zeros for all that other rules judge."""

    left: U8
    right: U8


@judges(DATA_CHANGED, STALE_IDENTITY, UNLOADED_CHANGED, SECTION_HEADER)
def check_data(comparison: Comparison) -> None:
    """Compare all bytes that are not code; words and sorted tables are judged elsewhere."""
    masked = _masked_both(comparison)
    _check_identity(comparison, masked)
    original, output = comparison.original, comparison.output
    for was, now in zip(original.sections, output.sections, strict=False):
        if not was.has_bytes or was.is_exec or was.size != now.size:
            continue
        if (was.kind, was.flags) != (now.kind, now.flags):
            continue  # which is a finding about its header: it may not even be loaded
        if was.is_alloc:
            _compare(was, now, masked, comparison.report)
        elif was.kind not in LINKAGE:
            _compare_unloaded(was, now, comparison)
    _check_unloaded_sizes(comparison)


def _masked_both(comparison: Comparison) -> _Masked:
    original, output = comparison.original, comparison.output
    in_data = Tables(tuple(t for t in comparison.tables if not t.in_code))
    words = np.concatenate([comparison.places, covered_words(in_data)])
    new = comparison.new_places(words)
    usable = new != NOWHERE
    left, right = _masked(original, words[usable]), _masked(output, new[usable])
    for start_va, end_va in sorted_ranges(comparison.tables):
        length = end_va - start_va
        left[original.offset_of(start_va) :][:length] = 0
        right[output.offset_of(comparison.images.one(start_va)) :][:length] = 0
    return _Masked(left, right)


def _check_identity(comparison: Comparison, masked: _Masked) -> None:
    """The build-id, if the original has one, is another; nothing else of the notes is."""
    original, output = comparison.original, comparison.output
    was, now = build_id(original), build_id(output)
    if was is None or now is None or was[1] != now[1]:
        return  # a note that came or went is data that changed
    if original.data[was[0] :][: was[1]] == output.data[now[0] :][: now[1]]:
        comparison.report.add(STALE_IDENTITY, 0, "the build-id is the original's", ".notes")
    masked.left[was[0] : was[0] + was[1]] = 0
    masked.right[now[0] : now[0] + now[1]] = 0


def build_id(image: ElfImage) -> tuple[int, int] | None:
    """File offset and length of the GNU build-id, None if missing."""
    for section in image.allocated_sections:
        if section.kind is not SectionKind.NOTE:
            continue
        notes, at = image.section_bytes(section), 0
        while at + NOTE_HEADER.size <= len(notes):
            name_len, desc_len, kind = NOTE_HEADER.unpack_from(notes, at)
            desc_at = at + NOTE_HEADER.size + -(-name_len // 4) * 4
            if kind == NT_GNU_BUILD_ID and notes[at + NOTE_HEADER.size :].startswith(b"GNU\0"):
                return section.off + desc_at, desc_len
            at = desc_at + -(-desc_len // 4) * 4
    return None


def _masked(image: ElfImage, word_va: I64) -> U8:
    octets = loaded_part(image).copy()
    off = file_offsets(image, word_va)
    octets[(off[off >= 0, None] + WORD).ravel()] = 0
    return octets


def _compare(was: Section, now: Section, masked: _Masked, report: Report) -> None:
    report.counts["data bytes"] += was.size
    mine = masked.left[was.off : was.off + was.size]
    theirs = masked.right[now.off : now.off + now.size]
    for at in np.flatnonzero(mine != theirs).tolist():
        message = f"byte {mine[at]:02x} became {theirs[at]:02x}"
        report.add(DATA_CHANGED, now.va + at, f"{message} ({now.name}+{at:#x})")


def _compare_unloaded(was: Section, now: Section, comparison: Comparison) -> None:
    comparison.report.counts["unloaded bytes"] += was.size
    if comparison.original.section_bytes(was) != comparison.output.section_bytes(now):
        comparison.report.add(UNLOADED_CHANGED, 0, "its bytes differ", now.name)


def _check_unloaded_sizes(comparison: Comparison) -> None:
    """Sections that are not loaded keep their size, but for symbols, strings and relocations.

    Debug information may be gone altogether.
    """
    original, output = comparison.original, comparison.output
    for was, now in zip(original.sections, output.sections, strict=False):
        if was.is_debug and now.size == 0:
            continue
        if not was.is_alloc and was.kind not in LINKAGE and was.size != now.size:
            message = f"it has {now.size} bytes, had {was.size}"
            comparison.report.add(SECTION_HEADER, 0, message, now.name)

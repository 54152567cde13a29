# SPDX-License-Identifier: MIT
"""Is everything that is neither code nor a reference still the same?"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from vmipatch.image.elf import ElfImage
from vmipatch.image.types import Section, SectionKind
from vmipatch.verify.static.rules import (
    DATA_CHANGED,
    SECTION_HEADER,
    STALE_IDENTITY,
    UNLOADED_CHANGED,
)
from vmipatch.verify.static.side import I64, U8, WORD, file_offsets, loaded_part
from vmipatch.verify.static.verdict import Report

LINKAGE = (SectionKind.REL, SectionKind.SYMTAB, SectionKind.STRTAB, SectionKind.NULL)
"""Sections whose contents have rules of their own."""
NOTE_HEADER = struct.Struct("<III")
NT_GNU_BUILD_ID = 3
"""The note of owner `GNU` that identifies a linked file (ld, --build-id)."""


def check_data(
    original: ElfImage,
    output: ElfImage,
    word_va: I64,
    new_word_va: I64,
    tables: Sequence[tuple[int, int, int]],
    report: Report,
) -> None:
    """Compare all bytes that are not code.

    The words at `word_va` (original) and `new_word_va` (output) are judged elsewhere, and so are
    whole `tables` (start, end, start in the output).
    """
    left, right = _masked(original, word_va), _masked(output, new_word_va)
    for start_va, end_va, new_start_va in tables:
        length = end_va - start_va
        left[original.offset_of(start_va) :][:length] = 0
        right[output.offset_of(new_start_va) :][:length] = 0
    _check_identity(original, output, left, right, report)
    for was, now in zip(original.sections, output.sections, strict=False):
        if not was.has_bytes or was.is_exec or was.size != now.size:
            continue
        if (was.kind, was.flags) != (now.kind, now.flags):
            continue  # which is a finding about its header: it may not even be loaded
        if was.is_alloc:
            _compare(was, now, left, right, report)
        elif was.kind not in LINKAGE:
            _compare_unloaded(original, output, was, now, report)


def _check_identity(
    original: ElfImage, output: ElfImage, left: U8, right: U8, report: Report
) -> None:
    """The build-id, if the original has one, is another; nothing else of the notes is."""
    was, now = build_id(original), build_id(output)
    if was is None or now is None or was[1] != now[1]:
        return  # a note that came or went is data that changed
    if original.data[was[0] :][: was[1]] == output.data[now[0] :][: now[1]]:
        report.add(STALE_IDENTITY, 0, "the build-id is the original's", ".notes")
    left[was[0] : was[0] + was[1]] = 0
    right[now[0] : now[0] + now[1]] = 0


def build_id(image: ElfImage) -> tuple[int, int] | None:
    """File offset and length of the GNU build-id, None if there is none."""
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


def _compare(was: Section, now: Section, left: U8, right: U8, report: Report) -> None:
    report.counts["data bytes"] += was.size
    mine, theirs = left[was.off : was.off + was.size], right[now.off : now.off + now.size]
    for at in np.flatnonzero(mine != theirs).tolist():
        message = f"byte {mine[at]:02x} became {theirs[at]:02x}"
        report.add(DATA_CHANGED, now.va + at, f"{message} ({now.name}+{at:#x})")


def _compare_unloaded(
    original: ElfImage, output: ElfImage, was: Section, now: Section, report: Report
) -> None:
    report.counts["unloaded bytes"] += was.size
    if original.section_bytes(was) != output.section_bytes(now):
        report.add(UNLOADED_CHANGED, 0, "its bytes differ", now.name)


def check_unloaded_sizes(original: ElfImage, output: ElfImage, report: Report) -> None:
    """Sections that are not loaded keep their size, but for symbols, strings and relocations.

    Debug information may be gone altogether.
    """
    for was, now in zip(original.sections, output.sections, strict=False):
        if was.is_debug and now.size == 0:
            continue
        if not was.is_alloc and was.kind not in LINKAGE and was.size != now.size:
            message = f"it has {now.size} bytes, had {was.size}"
            report.add(SECTION_HEADER, 0, message, now.name)

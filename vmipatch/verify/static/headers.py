# SPDX-License-Identifier: MIT
"""Are sections and segments where the original had them, or moved as the manifest says?"""

from __future__ import annotations

from itertools import pairwise

from vmipatch.image.elf import ElfImage
from vmipatch.image.module import is_linked_module
from vmipatch.image.types import Section, SectionKind, Segment, SegmentKind
from vmipatch.verify.static.comparison import Inputs, judges
from vmipatch.verify.static.room import PAGE, TEXT, room_end
from vmipatch.verify.static.rules import SECTION_HEADER, SEGMENT_HEADER
from vmipatch.verify.static.verdict import Report

NEW_PREFIXES = (".vmi.", ".rel.vmi.")
READ_ONLY = 4
"""p_flags of a segment that is only read."""
RESIZED = (SectionKind.REL, SectionKind.SYMTAB, SectionKind.STRTAB)
ELF_CONSTANT = ((0, 24, "identification"), (36, 44, "flags and sizes"))
"""Bytes of the ELF header that a rewrite leaves alone (System V ABI, chapter 4)."""


def is_comparable(inputs: Inputs) -> bool:
    """Whether the files have so much in common that more can be said than how they differ."""
    original, output = inputs.original, inputs.output
    has_all = len(output.sections) >= len(original.sections)
    named = has_all and not _renamed(inputs)
    placed = is_linked_module(original) or TEXT in original.section_by_name
    return named and placed and len(output.symbols) >= len(original.symbols)


@judges(SECTION_HEADER, SEGMENT_HEADER)
def check_headers(inputs: Inputs) -> None:
    """Check sections, segments and the ELF header."""
    original, output, report = inputs.original, inputs.output, inputs.report
    is_module = is_linked_module(original)
    for was, now in (renamed := _renamed(inputs)):
        message = f"section {was.index} was {was.name} and is {now.name}"
        report.add(SECTION_HEADER, now.va, message, now.name)
    if len(output.sections) < len(original.sections):
        message = f"{len(output.sections)} sections, were {len(original.sections)}"
        report.add(SECTION_HEADER, 0, message, "section headers")
    elif not is_module and TEXT not in original.section_by_name:
        report.add(SECTION_HEADER, 0, "the original has no .text", TEXT)
    elif not renamed:
        _check_sections(inputs)
        if not is_module:
            _check_layout(inputs)
        _check_elf_header(original, output, report)
        report.counts["sections"] += len(output.sections)


def _renamed(inputs: Inputs) -> list[tuple[Section, Section]]:
    both = zip(inputs.original.sections, inputs.output.sections, strict=False)
    return [(was, now) for was, now in both if was.name != now.name]


def _check_sections(inputs: Inputs) -> None:
    is_module = is_linked_module(inputs.original)
    for was, now in zip(inputs.original.sections, inputs.output.sections, strict=False):
        _check_columns(was, now, inputs.report)
        if was.is_alloc and not is_module:
            _check_place(was, now, inputs)


def _check_layout(inputs: Inputs) -> None:
    """A kernel's sections and segments."""
    _check_overlap(inputs.output, inputs.report)
    _check_segments(inputs)


def _check_columns(was: Section, now: Section, report: Report) -> None:
    for column in ("kind", "flags", "align", "entry_len", "link"):
        if getattr(was, column) != getattr(now, column):
            message = f"its {column} was {getattr(was, column)!s} and is {getattr(now, column)!s}"
            report.add(SECTION_HEADER, now.va, message, now.name)
    if was.kind is SectionKind.REL and was.info != now.info:
        report.add(SECTION_HEADER, now.va, "it applies to another section", now.name)
    if was.is_alloc and was.size != now.size and not was.is_exec:
        message = f"it has {now.size} bytes, had {was.size}"
        report.add(SECTION_HEADER, now.va, message, now.name)


def _check_place(was: Section, now: Section, inputs: Inputs) -> None:
    text = inputs.original.section_by_name[TEXT]
    should = was.va + (inputs.manifest.shift_len if was.va > text.va else 0)
    if now.va != should and not _follows_code(inputs.original, was):
        message = f"it is at {now.va:#x}, should be at {should:#x}"
        inputs.report.add(SECTION_HEADER, now.va, message, now.name)


def _follows_code(original: ElfImage, section: Section) -> bool:
    """Whether code stands right after other code that may grow (.altinstr_aux does)."""
    if not section.is_exec:
        return False
    before = [s for s in original.executable_sections if s.va < section.va]
    return bool(before) and section.va - before[-1].end_va < max(section.align, 1)


def _check_overlap(output: ElfImage, report: Report) -> None:
    occupied = [s for s in output.allocated_sections if s.size]
    for low, high in pairwise(occupied):
        if low.end_va > high.va:
            message = f"it reaches to {low.end_va:#x}, into {high.name}"
            report.add(SECTION_HEADER, low.va, message, low.name)


def _check_elf_header(original: ElfImage, output: ElfImage, report: Report) -> None:
    for start, end, what in ELF_CONSTANT:
        if original.data[start:end] != output.data[start:end]:
            report.add(SEGMENT_HEADER, 0, f"the {what} differ", "ELF header")


def _check_segments(inputs: Inputs) -> None:
    original, output, report = inputs.original, inputs.output, inputs.report
    shift_len = inputs.manifest.shift_len
    text = original.section_by_name[TEXT]
    for index, (was, now) in enumerate(zip(original.segments, output.segments, strict=False)):
        place = f"segment {index}"
        moved = shift_len if was.va > text.va else 0
        # The segment of .text reaches at least to the end of the room after .text, shifted.
        to_room_end = room_end(original) - was.va - was.mem_len
        holds_text = was.va <= text.va < was.va + was.mem_len
        grown = shift_len + max(to_room_end, 0) if holds_text else 0
        expected = (was.va + moved, was.pa + moved, was.mem_len + grown, was.flags, was.align)
        found = (now.va, now.pa, now.mem_len, now.flags, now.align)
        if expected != found or was.kind != now.kind or now.file_len != was.file_len + grown:
            message = f"{_show(now)}, was {_show(was)} (shift {shift_len:#x})"
            report.add(SEGMENT_HEADER, now.va, message, place)
    if len(output.segments) < len(original.segments):
        report.add(SEGMENT_HEADER, 0, "a segment is missing", "program headers")
    for index, new in enumerate(output.segments[len(original.segments) :], len(original.segments)):
        fault = _new_segment_fault(output, new)
        if fault is not None:
            report.add(SEGMENT_HEADER, new.va, f"{_show(new)} {fault}", f"segment {index}")
    for section in output.allocated_sections:
        if section.size and not any(_holds(s, section, output.data) for s in output.loads):
            message = "no segment puts it where it is linked"
            report.add(SEGMENT_HEADER, section.va, message, section.name)


def _new_segment_fault(output: ElfImage, new: Segment) -> str | None:
    """The fault in a segment of the rewriter, None if it is as it should be."""
    loaded = (s for s in output.allocated_sections if s.size)
    inside = [s for s in loaded if new.va <= s.va < new.va + new.mem_len]
    strange = any(not s.name.startswith(NEW_PREFIXES) or s.is_exec for s in inside)
    if new.kind is not SegmentKind.LOAD or new.flags != READ_ONLY or strange or not inside:
        return "is not for records"
    kernel = next(output.loads)
    if new.va - new.pa != kernel.va - kernel.pa:
        return f"has another offset between addresses than {_show(kernel)}"
    if new.file_len != new.mem_len or new.va + new.mem_len != max(s.end_va for s in inside):
        return f"ends elsewhere than its sections ({new.file_len} bytes are in the file)"
    if new.align != PAGE or new.va % PAGE or new.off % PAGE:
        return f"is aligned to {new.align}, not to pages"
    others = (s for s in output.loads if s is not new and s != new)
    if any(_share(new.va, s.va, new, s) or _share(new.pa, s.pa, new, s) for s in others):
        return "shares memory with another"
    return None


def _share(a: int, b: int, first: Segment, second: Segment) -> bool:
    return a < b + second.mem_len and b < a + first.mem_len


def _holds(segment: Segment, section: Section, data: bytes) -> bool:
    """Whether the segment loads the section; what has no bytes is zeros, in the file or not.

    Where loaded bytes follow .bss, as .modinfo does since 6.17, the file holds its zeros.
    """
    at = section.va - segment.va
    if at < 0 or at + section.size > segment.mem_len:
        return False
    if not section.has_bytes:
        end = min(at + section.size, segment.file_len)
        return not any(data[segment.off + at : segment.off + max(at, end)])
    return section.off == segment.off + at and at + section.size <= segment.file_len


def _show(segment: Segment) -> str:
    return f"[{segment.va:#x}, {segment.va + segment.mem_len:#x}) at {segment.pa:#x}"

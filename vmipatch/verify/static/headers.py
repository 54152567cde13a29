# SPDX-License-Identifier: MIT
"""Are sections and segments where the original had them, or moved as the manifest says?"""

from __future__ import annotations

from itertools import pairwise

from vmipatch.image.elf import ElfImage
from vmipatch.image.module import is_linked_module
from vmipatch.image.types import Section, SectionFlag, SectionKind, Segment, SegmentKind
from vmipatch.verify.static.manifest import Manifest
from vmipatch.verify.static.rules import NEW_SECTION, SECTION_HEADER, SEGMENT_HEADER
from vmipatch.verify.static.verdict import Report

PAGE = 4096
TEXT = ".text"
MODULE_SECTIONS = (
    ".vmi.text", ".vmi.annotation", ".vmi.annotation.init", ".vmi.thunks", ".vmi.fallback",
    ".vmi.translation",
)  # fmt: skip
"""What a module has got: its loader looks them up by name."""
NEW_PREFIXES = (".vmi.", ".rel.vmi.")
NEVER_LOADED = (".vmi.manifest", ".vmi.restore")
"""What the rewriter tells about the file, not to the kernel."""
READ_ONLY = 4
"""p_flags of a segment that is only read."""
RESIZED = (SectionKind.REL, SectionKind.SYMTAB, SectionKind.STRTAB)
ELF_CONSTANT = ((0, 24, "identification"), (36, 44, "flags and sizes"))
"""Bytes of the ELF header that a rewrite leaves alone (System V ABI, chapter 4)."""


def check_headers(original: ElfImage, output: ElfImage, manifest: Manifest, report: Report) -> bool:
    """Check them all. False if the files have so little in common that nothing else can be said."""
    if len(output.sections) < len(original.sections):
        message = f"{len(output.sections)} sections, were {len(original.sections)}"
        report.add(SECTION_HEADER, 0, message, "section headers")
        return False
    is_module = is_linked_module(original)
    if not is_module and TEXT not in original.section_by_name:
        report.add(SECTION_HEADER, 0, "the original has no .text", TEXT)
        return False
    renamed = [
        (s, t) for s, t in zip(original.sections, output.sections, strict=False) if s.name != t.name
    ]
    for was, now in renamed:
        message = f"section {was.index} was {was.name} and is {now.name}"
        report.add(SECTION_HEADER, now.va, message, now.name)
    if renamed:
        return False
    for was, now in zip(original.sections, output.sections, strict=False):
        _check_columns(was, now, report)
        if was.is_alloc and not is_module:
            _check_place(original, was, now, manifest.shift_len, report)
    if is_module:
        _check_new_of_module(original, output, report)
    else:
        _check_overlap(output, report)
        _check_new(original, output, manifest, report)
        _check_segments(original, output, manifest.shift_len, report)
    _check_elf_header(original, output, report)
    report.counts["sections"] += len(output.sections)
    return True


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


def _check_place(
    original: ElfImage, was: Section, now: Section, shift_len: int, report: Report
) -> None:
    text = original.section_by_name[TEXT]
    should = was.va + (shift_len if was.va > text.va else 0)
    if now.va != should and not _follows_code(original, was):
        message = f"it is at {now.va:#x}, should be at {should:#x}"
        report.add(SECTION_HEADER, now.va, message, now.name)


def _follows_code(original: ElfImage, section: Section) -> bool:
    """Whether code stands right behind other code that may grow (.altinstr_aux does)."""
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


def _check_new(original: ElfImage, output: ElfImage, manifest: Manifest, report: Report) -> None:
    """New code is in the room of .text, all else that is loaded behind the kernel's memory."""
    now = output.section_by_name[TEXT]
    end_va = _room_end(original) + manifest.shift_len
    added = [s for s in output.sections[len(original.sections) :] if s.is_exec]
    kernel_end_va = max(s.va + s.mem_len for s in original.loads) + manifest.shift_len
    for section in output.sections[len(original.sections) :]:
        low, high = (now.end_va, end_va) if section.is_exec else (kernel_end_va, 1 << 32)
        if not section.name.startswith(NEW_PREFIXES):
            report.add(NEW_SECTION, section.va, "nothing is known of this section", section.name)
        elif section.name in NEVER_LOADED and _is_loaded(section, output):
            report.add(NEW_SECTION, section.va, "it is loaded, and may hold anything", section.name)
        elif section.is_alloc and not low <= section.va <= section.end_va <= high:
            message = f"[{section.va:#x}, {section.end_va:#x}) is not in [{low:#x}, {high:#x})"
            report.add(NEW_SECTION, section.va, message, section.name)
        elif section.is_exec and section.end_va not in {end_va, *(s.va for s in added)}:
            message = f"it ends at {section.end_va:#x}, the room of {TEXT} at {end_va:#x}"
            report.add(NEW_SECTION, section.va, message, section.name)


def _room_end(original: ElfImage) -> int:
    """Where the last page of .text ends, or the next section begins in it."""
    text = original.section_by_name[TEXT]
    page_end = text.va + -(-text.size // PAGE) * PAGE
    behind = (s.va for s in original.allocated_sections if s.va >= text.end_va and s.size)
    return min(page_end, *behind, page_end)


def _is_loaded(section: Section, output: ElfImage) -> bool:
    """Whether a section occupies memory, or shares bytes of the file with something that does."""
    end_off = section.off + section.size
    return section.is_alloc or any(
        section.off < load.off + load.file_len and load.off < end_off for load in output.loads
    )


def _check_new_of_module(original: ElfImage, output: ElfImage, report: Report) -> None:
    """The sections that the kernel looks for are there, loaded, and one of them alone is code."""
    added = output.sections[len(original.sections) :]
    for section in added:
        if not section.name.startswith(NEW_PREFIXES):
            report.add(NEW_SECTION, section.va, "nothing is known of this section", section.name)
        elif section.flags != (should := _flags_in_module(section.name)):
            message = f"its flags are {section.flags.name}, should be {should.name}"
            report.add(NEW_SECTION, section.va, message, section.name)
    loaded = [section.name for section in added if section.is_alloc and section.has_bytes]
    for name in MODULE_SECTIONS:
        if loaded.count(name) != 1:
            message = f"{loaded.count(name)} sections of this name are loaded"
            report.add(NEW_SECTION, 0, message, name)


def _flags_in_module(name: str) -> SectionFlag:
    """What the kernel's loader has to make of a new section: code, data that is read, nothing."""
    if name not in MODULE_SECTIONS:
        return SectionFlag.NONE
    is_code = name == MODULE_SECTIONS[0]
    return SectionFlag.ALLOC | (SectionFlag.EXEC if is_code else SectionFlag.NONE)


def _check_elf_header(original: ElfImage, output: ElfImage, report: Report) -> None:
    for start, end, what in ELF_CONSTANT:
        if original.data[start:end] != output.data[start:end]:
            report.add(SEGMENT_HEADER, 0, f"the {what} differ", "ELF header")


def _check_segments(original: ElfImage, output: ElfImage, shift_len: int, report: Report) -> None:
    text = original.section_by_name[TEXT]
    for index, (was, now) in enumerate(zip(original.segments, output.segments, strict=False)):
        place = f"segment {index}"
        moved = shift_len if was.va > text.va else 0
        # The segment of .text reaches at least to the end of the room behind .text, shifted.
        to_room_end = _room_end(original) - was.va - was.mem_len
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
    """What is wrong with a segment of the rewriter, None if nothing is."""
    inside = [s for s in output.allocated_sections if new.va <= s.va < new.va + new.mem_len]
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

# SPDX-License-Identifier: MIT
"""Are the sections that were added those of a closed list, each with its kind, flags and place?"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from vmipatch.image.elf import SHOFF_AT, ElfImage
from vmipatch.image.hook import records_in_room
from vmipatch.image.module import is_linked_module
from vmipatch.image.types import Section, SectionFlag, SectionKind
from vmipatch.verify.static.comparison import Inputs, judges
from vmipatch.verify.static.room import PAGE, TEXT, room_end
from vmipatch.verify.static.rules import NEW_SECTION, SECTION_HEADER

CODE = int(SectionFlag.ALLOC | SectionFlag.EXEC)
READ = int(SectionFlag.ALLOC)
UNLOADED = 0
SECTION_HEADER_LEN = 40
REL_PREFIX = ".rel"


@dataclass(frozen=True, slots=True)
class HeaderShape:
    """The columns of an added section's header that have one value (System V ABI, chapter 4)."""

    kind: SectionKind
    flags: int
    """sh_flags, all 32 bits."""
    align: int
    entry_len: int = 0
    is_optional: bool = False


def _words(align: int) -> dict[str, HeaderShape]:
    names = (".vmi.annotation", ".vmi.annotation.init", ".vmi.thunks", ".vmi.fallback",
             ".vmi.translation")  # fmt: skip
    return {name: HeaderShape(SectionKind.PROGBITS, READ, align) for name in names}


_TEXT = HeaderShape(SectionKind.PROGBITS, CODE, 16)
_TRAMPOLINES = HeaderShape(SectionKind.PROGBITS, CODE, 16, is_optional=True)
_REL = HeaderShape(SectionKind.REL, UNLOADED, 4, 8)
_MOVED_REL = HeaderShape(SectionKind.REL, UNLOADED, 4, 8, is_optional=True)
_NOTE = HeaderShape(SectionKind.PROGBITS, UNLOADED, 1)
_RESTORE = HeaderShape(SectionKind.PROGBITS, UNLOADED, 1, is_optional=True)

OF_KERNEL: Mapping[str, HeaderShape] = {
    ".vmi.text": _TEXT,
    ".vmi.trampolines": _TRAMPOLINES,
    **_words(1),
    ".rel.vmi.text": _REL,
    ".rel.vmi.trampolines": _MOVED_REL,
    ".vmi.manifest": _NOTE,
    ".vmi.restore": _RESTORE,
}
"""All sections that a rewritten kernel may have more than its original."""
OF_MODULE: Mapping[str, HeaderShape] = {
    ".vmi.text": _TEXT,
    **_words(4),
    ".rel.vmi.text": _REL,
    **{f"{REL_PREFIX}{name}": _REL for name in _words(4)},
    ".vmi.manifest": _NOTE,
    ".vmi.restore": _RESTORE,
}
"""The same of a module, whose loader looks them up by name and fills in their addresses."""


@judges(NEW_SECTION)
def check_added_sections(inputs: Inputs) -> None:
    """Each added section is of the list, once, and as the list says."""
    original, output, report = inputs.original, inputs.output, inputs.report
    is_module = is_linked_module(original)
    shapes = OF_MODULE if is_module else OF_KERNEL
    added = output.sections[len(original.sections) :]
    for section in added:
        shape = shapes.get(section.name)
        fault = "nothing is known of this section"
        if shape is not None:
            fault = _shape_fault(section, shape, output) or ""
        if fault:
            report.add(NEW_SECTION, section.va, fault, section.name)
    found = Counter(section.name for section in added)
    for name, shape in shapes.items():
        least = 0 if shape.is_optional else 1
        if not least <= found[name] <= 1:
            message = f"{found[name]} sections of this name were added"
            report.add(NEW_SECTION, 0, message, name)
    is_whole = len(output.sections) >= len(original.sections)
    if not is_module and TEXT in original.section_by_name and is_whole:
        _check_places(inputs, added)


def _shape_fault(section: Section, shape: HeaderShape, output: ElfImage) -> str | None:
    kind, flags = raw_words(output, section.index)
    if (kind, flags) != (shape.kind, shape.flags):
        return f"type {kind} and flags {flags:#x}, should be {int(shape.kind)} and {shape.flags:#x}"
    if (section.align, section.entry_len) != (shape.align, shape.entry_len):
        return f"aligned to {section.align}, entries of {section.entry_len} bytes"
    link = info = 0
    if shape.kind is SectionKind.REL:
        table = next(s for s in output.sections if s.kind is SectionKind.SYMTAB)
        applies_to = output.section_by_name.get(section.name.removeprefix(REL_PREFIX))
        link, info = table.index, applies_to.index if applies_to else 0
    if (section.link, section.info) != (link, info):
        return f"belongs to sections {section.link} and {section.info}, not {link} and {info}"
    if not section.is_alloc and is_loaded(section, output):
        return "it is loaded, and may hold anything"
    return None


def raw_words(image: ElfImage, index: int) -> tuple[int, int]:
    """sh_type and sh_flags of a section, as stored."""
    (shoff,) = struct.unpack_from("<I", image.data, SHOFF_AT)
    kind, flags = struct.unpack_from("<II", image.data, shoff + index * SECTION_HEADER_LEN + 4)
    return kind, flags


def is_loaded(section: Section, output: ElfImage) -> bool:
    """Whether a section occupies memory, or shares bytes of the file with something that does."""
    end_off = section.off + section.size
    return (
        section.is_alloc
        or section.va != 0
        or any(
            section.off < load.off + load.file_len and load.off < end_off for load in output.loads
        )
    )


def _check_places(inputs: Inputs, added: tuple[Section, ...]) -> None:
    """New code fills the room after .text; records begin with the first page after the kernel, one
    section right after the other. Those of a kernel that is not Linux lie in the room as well.
    """
    original, report, shift_len = inputs.original, inputs.report, inputs.manifest.shift_len
    text = inputs.output.sections[original.section_by_name[TEXT].index]
    low, high = text.end_va, room_end(original) + shift_len
    in_room = records_in_room(inputs.manifest.start)
    held = (s for s in added if s.is_exec or (in_room and s.is_alloc))
    code = sorted(held, key=lambda s: (s.va, s.end_va, s.index))
    for index, section in enumerate(code):
        end_va = code[index + 1].va if index + 1 < len(code) else high
        if not low <= section.va <= section.end_va == end_va:
            message = f"[{section.va:#x}, {section.end_va:#x}) is not in [{low:#x}, {high:#x})"
            report.add(NEW_SECTION, section.va, f"{message}, up to {end_va:#x}", section.name)
    if in_room:
        return
    kernel_end_va = max(s.va + s.mem_len for s in original.loads) + shift_len
    should = -(-kernel_end_va // PAGE) * PAGE
    records = [s for s in added if s.is_alloc and not s.is_exec]
    for section in sorted(records, key=lambda s: (s.va, s.index)):
        if section.va != should:
            message = f"it is at {section.va:#x}, should be at {should:#x}"
            report.add(NEW_SECTION, section.va, message, section.name)
        should = section.end_va


@judges(SECTION_HEADER)
def check_raw_flags(inputs: Inputs) -> None:
    """Type and flags of the original's sections are the same in all 32 bits."""
    for was, now in zip(inputs.original.sections, inputs.output.sections, strict=False):
        stored = raw_words(inputs.original, was.index), raw_words(inputs.output, now.index)
        if stored[0] != stored[1]:
            message = f"type and flags were {stored[0]} and are {stored[1]}"
            inputs.report.add(SECTION_HEADER, now.va, message, now.name)

# SPDX-License-Identifier: MIT
"""Does the file record everything that a new layout has to follow?"""

from __future__ import annotations

import numpy as np

from vmipatch.errors import InputNotUnderstood, MalformedImage, NotSupported
from vmipatch.image.annotated import SECTION, is_annotated_13
from vmipatch.image.consistency import (
    DAMAGED,
    require_loaded_allocated,
    require_own_bytes,
    require_own_memory,
)
from vmipatch.image.elf import SHOFF_AT, ElfImage
from vmipatch.image.physical import virtual_distances
from vmipatch.image.relocations import RAW_REL
from vmipatch.image.symbols import SHN_UNDEF
from vmipatch.image.types import Section, SectionKind, Segment
from vmipatch.limits import Limit

ADDED_PREFIX = ".vmi."
NAMES_AT = 50
"""Offset of e_shstrndx in the ELF header."""


def added_sections(image: ElfImage) -> list[str]:
    """The names of the sections that a rewriting leaves, in alphabetical order."""
    return sorted(s.name for s in image.sections if s.name.startswith(ADDED_PREFIX))


def require_relinkable(image: ElfImage) -> None:
    """Raise InputNotUnderstood unless everything that refers to code is recorded in the file."""
    if is_annotated_13(image):
        raise NotSupported(Limit.ANNOTATED, file=image.name, place=SECTION)
    if added := added_sections(image):
        raise InputNotUnderstood(
            "this kernel is rewritten already",
            file=image.name,
            place=added[0],
            hint="rewrite the kernel as the build left it",
        )
    missing = [n for n in (".text", ".rel.text", ".symtab") if n not in image.section_by_name]
    if missing:
        raise InputNotUnderstood(
            f"the kernel has no {missing[0]} section, so not every reference is known",
            file=image.name,
            place="section headers",
            hint="give a vmlinux linked with --emit-relocs, as CONFIG_RELOCATABLE=y leaves it",
        )
    _require_kinds(image)
    require_own_bytes(image.sections, image.name)
    require_own_memory(image.sections, image.name)
    require_loaded_allocated(image.sections, image.segments, image.name)
    for section in image.sections:
        if section.is_alloc and section.kind in (SectionKind.REL, SectionKind.SYMTAB):
            raise MalformedImage(
                "a table for linkers lies in the kernel's memory",
                file=image.name,
                place=f"section {section.index} ({section.name})",
                hint=DAMAGED,
            )
        if section.kind is SectionKind.REL and image.sections[section.info].is_alloc:
            _require_all_entries(image, section)
    for section in image.allocated_sections:
        if section.size and not any(_holds(load, section) for load in image.loads):
            raise MalformedImage(
                "no program segment loads this section where it is linked",
                file=image.name,
                place=f"section {section.index} ({section.name})",
                hint=DAMAGED,
            )
    entries = image.symbols.entries
    nowhere = (entries["shndx"] == SHN_UNDEF) & (entries["value"] != 0)
    _refuse(image, nowhere, "is defined nowhere, and has a value")
    for section in image.executable_sections:
        _require_symbols_inside(image, section)
        _require_no_foreign_symbols(image, section)


def _require_kinds(image: ElfImage) -> None:
    """The sections that are rewritten are what their names say, and have tables of their own."""
    text, symbols = image.section_by_name[".text"], image.section_by_name[".symtab"]
    names = int.from_bytes(image.data[NAMES_AT : NAMES_AT + 2], "little")
    complaint = None
    if not any(text is section for section in image.executable_sections):
        complaint = ".text", "it is not loaded code"
    elif not list(image.loads):
        complaint = "program headers", "no segment loads the kernel"
    elif symbols.kind is not SectionKind.SYMTAB:
        complaint = ".symtab", "it is not a symbol table"
    elif symbols.link == names:
        complaint = ".symtab", "symbols and sections have their names in one table"
    if complaint is not None:
        place, message = complaint
        raise MalformedImage(message, file=image.name, place=place)


def _require_all_entries(image: ElfImage, rel: Section) -> None:
    """Linkers leave no room between sections that are not loaded: what stands there is lost."""
    end_off = rel.off + rel.size
    headers_off = int.from_bytes(image.data[SHOFF_AT : SHOFF_AT + 4], "little")
    begins = [s.off for s in image.sections if s.has_bytes and s.size]
    following = (off for off in (*begins, headers_off) if off >= end_off)
    gap = image.data[end_off : min(following, default=len(image.data))]
    if len(gap) >= RAW_REL.itemsize and any(gap):
        raise MalformedImage(
            f"{len(gap)} bytes after it belong to no section: relocations got lost",
            file=image.name,
            place=f"section {rel.index} ({rel.name})",
            hint=DAMAGED,
        )


def _holds(load: Segment, section: Section) -> bool:
    """Whether the segment loads the section, its bytes at its addresses."""
    distance = section.va - load.va
    if not 0 <= distance <= load.mem_len - section.size:
        return False
    in_file = distance + section.size <= load.file_len
    return not section.has_bytes or (in_file and section.off - load.off == distance)


def _require_symbols_inside(image: ElfImage, section: Section) -> None:
    """A label may also stand in the gap after its section, where a linker script aligns."""
    entries = image.symbols.entries
    following = (s.va for s in image.allocated_sections if s.va >= section.end_va)
    mine = entries["shndx"] == section.index
    value = entries["value"].astype(np.int64) + virtual_distances(image)
    stray = mine & ((value < section.va) | (value > next(following, section.end_va)))
    _refuse(image, stray, f"lies outside of its section {section.name}")


def _require_no_foreign_symbols(image: ElfImage, code: Section) -> None:
    """A symbol of data cannot move along with an instruction."""
    entries = image.symbols.entries
    code_indices = [s.index for s in image.executable_sections]
    data = [s.index for s in image.allocated_sections if s.index not in code_indices]
    value = entries["value"].astype(np.int64) + virtual_distances(image)
    stray = np.isin(entries["shndx"], data) & (value > code.va) & (value < code.end_va)
    _refuse(image, stray, f"lies inside of {code.name}, and its section is another one")


def _refuse(image: ElfImage, stray: np.ndarray, complaint: str) -> None:
    """Raise MalformedImage for the first symbol that is astray (bool array, one a symbol)."""
    for index in np.flatnonzero(stray)[:1].tolist():
        symbol = image.symbols[index]
        raise MalformedImage(
            f"symbol {symbol.name or index} {complaint}",
            file=image.name,
            place=f"{symbol.va:#x}",
            hint=DAMAGED,
        )

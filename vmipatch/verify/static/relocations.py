# SPDX-License-Identifier: MIT
"""Does every relocated word lead to the image of where it led, and has it still its entry?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vmipatch.image.ascending import among, distinct
from vmipatch.image.elf import ElfImage
from vmipatch.image.relocations import R_386_32, R_386_NONE, RAW_REL
from vmipatch.image.symbols import SHN_ABS, SHN_UNDEF, STT_SECTION
from vmipatch.image.types import Section, SectionKind
from vmipatch.verify.static.images import NOWHERE, Images
from vmipatch.verify.static.rules import (
    RELOCATION_ENTRY,
    RELOCATION_LEADS_ELSEWHERE,
    TARGET_WITHOUT_IMAGE,
)
from vmipatch.verify.static.side import I64, file_offsets, words_at
from vmipatch.verify.static.verdict import Report

Keys = npt.NDArray[np.uint64]

OWN_PREFIX = ".rel.vmi."
NEAR_OFFSET = 1 << 24
"""An addend below this belongs to a symbol; one above moves to physical addresses."""


@dataclass(frozen=True, slots=True, eq=False)
class Words:
    """Relocated words of the original whose value this rule judges: parallel arrays."""

    va: I64
    kind: I64
    symbol: I64
    target: I64
    """What the word led to: its value, plus its own address where it is relative."""
    new_va: I64
    """Where the word is in the output."""


def check_words(
    words: Words, images: Images, original: ElfImage, output: ElfImage, report: Report
) -> None:
    """Compare each word of the output with what it should hold."""
    off = file_offsets(output, words.new_va)
    usable = (words.new_va != NOWHERE) & (off >= 0)
    relative = words.kind != R_386_32
    held = words_at(np.frombuffer(output.data, np.uint8), np.where(usable, off, 0)).astype(np.int64)
    leads = (held + np.where(relative, words.new_va, 0)) & 0xFFFFFFFF
    should = _expected(words, images, original, output)
    report.counts["relocations"] += len(words.va)
    wrong = usable & (leads != should) & (should != NOWHERE)
    for i in np.flatnonzero(wrong).tolist():
        name = _name(original, int(words.symbol[i]))
        message = f"leads to {leads[i]:#x}, should lead to {should[i]:#x} ({name})"
        report.add(RELOCATION_LEADS_ELSEWHERE, int(words.new_va[i]), message)
    for i in np.flatnonzero(usable & (should == NOWHERE)).tolist():
        message = f"led to {words.target[i]:#x}, of which there is no image"
        report.add(TARGET_WITHOUT_IMAGE, int(words.new_va[i]), message)


def _expected(words: Words, images: Images, original: ElfImage, output: ElfImage) -> I64:
    """What each word must lead to in the output."""
    symbols, moved = original.symbols.entries, output.symbols.entries
    value = symbols["value"].astype(np.int64)[words.symbol]
    new_value = moved["value"].astype(np.int64)[words.symbol]
    size = symbols["size"].astype(np.int64)[words.symbol]
    shndx = symbols["shndx"].astype(np.int64)[words.symbol]
    by_section = symbols["info"][words.symbol] & 15 == STT_SECTION
    executable = np.isin(shndx, [s.index for s in original.executable_sections])
    addend = _signed(words.target - value)
    # A physical address is judged as the linked one it stands for.
    physical = (
        (words.kind == R_386_32)
        & (np.abs(_signed(addend + images.physical)) < NEAR_OFFSET)
        & (shndx != SHN_ABS)
    )
    # What code adds to its own physical address to get a linked one, too.
    added = (
        (words.kind == R_386_32)
        & (np.abs(_signed(addend - images.physical)) < NEAR_OFFSET)
        & (shndx != SHN_ABS)
        & (images.physical > 0)
    )
    base = np.where(physical, images.physical, np.where(added, -images.physical, 0))
    addend = _signed(addend + base)
    target = (words.target + base) & 0xFFFFFFFF
    inside = executable & (by_section | ((addend > 0) & (addend <= size)))
    led = np.where(inside & images.in_code(target), images(target), new_value + addend)
    fixed = (shndx == SHN_UNDEF) | (words.symbol == 0)
    should = np.where(fixed, target, led)
    return np.where(should == NOWHERE, NOWHERE, (should - base) & 0xFFFFFFFF)


def _signed(values: I64) -> I64:
    """The values as signed numbers of 32 bits."""
    return ((values + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)


def check_entries(
    original: ElfImage, output: ElfImage, expected_va: dict[int, I64], free: I64, report: Report
) -> None:
    """The output's .rel sections hold the original's entries at the images of their places.

    `expected_va` has, for each of the original's .rel sections by index, the places its entries
    should have; one of kind R_386_NONE patches nothing and stays as it is. At the addresses `free`
    (in the output: tables that were sorted again) an entry may name another symbol.
    """
    kept = [s for s in rel_sections(original) if not is_dropped(s, output)]
    was = [(s, raw_entries(original, s)) for s in kept]
    now = [(s, raw_entries(output, s)) for s in rel_sections(output)]
    wanted = [_expected_entries(raw, expected_va[s.index]) for s, raw in was if len(raw)]
    present = [(r["offset"].astype(np.int64), r["info"].astype(np.int64)) for _, r in now if len(r)]
    ascending = distinct(free)
    left, right = _keys(wanted, ascending), _keys(present, ascending)
    report.counts["relocation entries"] += len(right)
    for key in _missing(left, right).tolist():
        message = f"there is no entry of kind {key & 0xFF} for symbol {(key >> 8) & 0xFFFFFF}"
        report.add(RELOCATION_ENTRY, key >> 32, message)
    for key in _missing(right, left).tolist():
        message = (
            f"the original has no such entry: kind {key & 0xFF}, symbol {(key >> 8) & 0xFFFFFF}"
        )
        report.add(RELOCATION_ENTRY, key >> 32, message)
    for section, raw in now:
        applies = output.sections[section.info]
        at = raw["offset"].astype(np.int64)
        outside = (at < applies.va) | (at >= applies.end_va)
        # R_386_NONE is what the build's sorting leaves of a relocation: it has no place.
        outside &= (raw["info"] & 0xFF) != R_386_NONE
        for va in at[outside & applies.is_alloc].tolist():
            report.add(RELOCATION_ENTRY, va, f"{section.name} has an entry outside {applies.name}")


def _expected_entries(raw: np.ndarray, places: I64) -> tuple[I64, I64]:
    """Place and info that each entry of the original has in the output."""
    info = raw["info"].astype(np.int64)
    stays = info & 0xFF == R_386_NONE
    return np.where(stays, raw["offset"].astype(np.int64), places), info


def _keys(entries: Iterable[tuple[I64, I64]], free: I64) -> Keys:
    """One sortable number for each entry: place, symbol, kind. Lost places are left out."""
    keys = [np.zeros(0, np.uint64)]
    for va, info in entries:
        named = np.where(among(va, free), info & 0xFF, info)
        keys.append(((va.astype(np.uint64) << 32) | named.astype(np.uint64))[va != NOWHERE])
    return np.sort(np.concatenate(keys))


def _missing(wanted: Keys, present: Keys) -> Keys:
    """Elements of sorted `wanted` that sorted `present` lacks, counting how often each occurs."""
    if np.array_equal(wanted, present):
        return np.zeros(0, np.uint64)
    return wanted[_rank(wanted) >= _count(present, wanted)]


def _rank(values: Keys) -> I64:
    """How many equal elements precede each one in a sorted array."""
    return np.arange(len(values)) - np.searchsorted(values, values, side="left")


def _count(values: Keys, wanted: Keys) -> I64:
    return np.searchsorted(values, wanted, side="right") - np.searchsorted(values, wanted, "left")


def rel_sections(image: ElfImage) -> list[Section]:
    """The .rel sections of `image`, those of records excepted."""
    return [
        s for s in image.sections if s.kind is SectionKind.REL and not s.name.startswith(OWN_PREFIX)
    ]


def is_dropped(section: Section, output: ElfImage) -> bool:
    """Whether `section` of the original is debug information that the output does not carry."""
    return section.is_debug and not output.sections[section.index].size


def raw_entries(image: ElfImage, section: Section) -> np.ndarray:
    """All entries of one .rel section, dtype RAW_REL."""
    return np.frombuffer(image.section_bytes(section), RAW_REL)


def _name(image: ElfImage, symbol: int) -> str:
    found = image.symbols[symbol]
    section = found.kind == STT_SECTION and 0 < found.section < len(image.sections)
    return image.sections[found.section].name if section else found.name

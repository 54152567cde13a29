# SPDX-License-Identifier: MIT
"""Does every relocated word point to the image of its old target, and has it still its entry?"""

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
from vmipatch.verify.static.comparison import Comparison, judges
from vmipatch.verify.static.images import NOWHERE
from vmipatch.verify.static.outline import TRAMPOLINES
from vmipatch.verify.static.rules import (
    RELOCATION_ENTRY,
    RELOCATION_LEADS_ELSEWHERE,
    TARGET_WITHOUT_IMAGE,
)
from vmipatch.verify.static.side import I64, file_offsets, words_at
from vmipatch.verify.static.table_facts import covered_words, sorted_ranges
from vmipatch.verify.static.targets import displacements

Keys = npt.NDArray[np.uint64]

OWN_PREFIX = ".rel.vmi."
NEAR_OFFSET = 1 << 24
"""An addend below this belongs to a symbol; one above moves to physical addresses."""


@dataclass(frozen=True, slots=True, eq=False)
class JudgedWords:
    """Relocated words of the original whose value this rule judges: parallel arrays."""

    va: I64
    kind: I64
    symbol: I64
    target: I64
    """The word's target: its value, plus its own address where it is relative."""
    new_va: I64
    """Where the word is in the output."""


@judges(RELOCATION_LEADS_ELSEWHERE, TARGET_WITHOUT_IMAGE)
def check_words(comparison: Comparison) -> None:
    """Compare each word of the output with what it should hold."""
    original, output, report = comparison.original, comparison.output, comparison.report
    words, should = expected_words(comparison)
    off = file_offsets(output, words.new_va)
    usable = (words.new_va != NOWHERE) & (off >= 0)
    relative = words.kind != R_386_32
    held = words_at(np.frombuffer(output.data, np.uint8), np.where(usable, off, 0)).astype(np.int64)
    leads = (held + np.where(relative, words.new_va, 0)) & 0xFFFFFFFF
    report.counts["relocations"] += len(words.va)
    wrong = usable & (leads != should) & (should != NOWHERE)
    for i in np.flatnonzero(wrong).tolist():
        name = _name(original, int(words.symbol[i]))
        message = f"targets {leads[i]:#x}, should target {should[i]:#x} ({name})"
        report.add(RELOCATION_LEADS_ELSEWHERE, int(words.new_va[i]), message)
    for i in np.flatnonzero(usable & (should == NOWHERE)).tolist():
        message = f"targeted {words.target[i]:#x}, of which there is no image"
        report.add(TARGET_WITHOUT_IMAGE, int(words.new_va[i]), message)


def expected_words(comparison: Comparison) -> tuple[JudgedWords, I64]:
    """All relocated words but displacements of branches and words of tables, and the address that
    each must hold in the output; NOWHERE if it has no image.
    """
    words = _judged_words(comparison)
    should, hook, runtime_va = _expected(words, comparison), comparison.hook, comparison.runtime_va
    if hook is not None and runtime_va is not None:
        should[among(words.va, hook.words)] = runtime_va
    return words, should


def _judged_words(comparison: Comparison) -> JudgedWords:
    """All relocated words but displacements of branches and words of tables."""
    places, tables = comparison.places, comparison.tables
    judged = ~displacements(comparison.left, places)
    judged &= ~among(places, distinct(covered_words(tables)))
    for start, end in sorted_ranges(tables):
        # Where a table was sorted after the link, its relocations no longer tell what it holds.
        judged &= (places < start) | (places >= end)
    rows, places = comparison.relocated[judged], places[judged]
    relative = rows["kind"] != R_386_32
    return JudgedWords(
        va=places,
        kind=rows["kind"].astype(np.int64),
        symbol=rows["symbol"].astype(np.int64),
        target=(rows["value"].astype(np.int64) + np.where(relative, places, 0)) & 0xFFFFFFFF,
        new_va=comparison.new_places(places),
    )


def _expected(words: JudgedWords, comparison: Comparison) -> I64:
    """The address that each word must hold in the output."""
    original, output, images = comparison.original, comparison.output, comparison.images
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


@judges(RELOCATION_ENTRY)
def check_relocation_entries(comparison: Comparison) -> None:
    """The output's .rel sections hold the original's entries at the images of their places.

    One of kind R_386_NONE patches nothing and stays as it is. In tables that were sorted again an
    entry may name another symbol.
    """
    original, output, report = comparison.original, comparison.output, comparison.report
    ranges = [np.arange(s, e, dtype=np.int64) for s, e in sorted_ranges(comparison.tables)]
    free = comparison.images(np.concatenate([np.zeros(0, np.int64), *ranges]))
    kept = [s for s in rel_sections(original) if not is_dropped(s, output)]
    was = [(s, raw_entries(original, s)) for s in kept]
    now = [(s, raw_entries(output, s)) for s in rel_sections(output)]
    wanted = [_expected_entries(comparison, s, raw) for s, raw in was if len(raw)]
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


def _expected_entries(comparison: Comparison, section: Section, raw: np.ndarray) -> tuple[I64, I64]:
    """Place and info that each entry of a section of the original has in the output."""
    vas, info = raw["offset"].astype(np.int64), raw["info"].astype(np.int64)
    if not comparison.original.sections[section.info].is_alloc:
        return vas, info
    return np.where(info & 0xFF == R_386_NONE, vas, comparison.new_places(vas)), info


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
    """The .rel sections of `image`, those of added code excepted, but not of what moved there."""
    return [
        s
        for s in image.sections
        if s.kind is SectionKind.REL
        and (s.name == f".rel{TRAMPOLINES}" or not s.name.startswith(OWN_PREFIX))
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

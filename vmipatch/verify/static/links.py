# SPDX-License-Identifier: MIT
"""Is every address in the annotations of a module one that its loader fills in?

In the linked image such a word holds the right address whether a relocation put it there or not;
the loader of a kernel links the module anywhere else.
"""

from __future__ import annotations

from collections import Counter

from vmipatch.image.elf import ElfImage
from vmipatch.image.relocations import R_386_32, R_386_PC32, RAW_REL, Relocations
from vmipatch.image.symbols import SHN_UNDEF
from vmipatch.verify.static.added import FALLBACK, PAIR, THUNK_CALLS
from vmipatch.verify.static.bodies import RECORD_SECTIONS, Bodies
from vmipatch.verify.static.comparison import Comparison
from vmipatch.verify.static.rules import ANNOTATION_RELOCATION
from vmipatch.verify.static.translations import TRANSLATIONS
from vmipatch.verify.static.verdict import Report
from vmipatch.vmi.record import (
    FINAL_TRANSLATION,
    NATIVE_VA_OFF,
    RECORD_LEN,
    TRANSLATION_VA_OFF,
)


def check_links(comparison: Comparison) -> None:
    """Compare the relocations of records, tables and translations with the words that need one."""
    output, report = comparison.output, comparison.report
    wanted = _wanted(output, comparison.bodies)
    sections = {output.section_by_name[name].index for name in wanted}
    found: Counter[tuple[int, int]] = Counter()
    for entry in Relocations.of(output).entries:
        if int(entry["section"]) not in sections:
            continue
        va, kind, value = int(entry["va"]), int(entry["kind"]), int(entry["value"])
        found[va, kind] += 1
        led_to = value if kind == R_386_32 else (value + va + 4) & 0xFFFFFFFF
        symbol = output.symbols[int(entry["symbol"])]
        holder = output.section_at(led_to)
        if symbol.section == SHN_UNDEF or holder is None or symbol.section != holder.index:
            message = f"{led_to:#x} is linked by {symbol.name or 'a symbol'} of another section"
            report.add(ANNOTATION_RELOCATION, va, message)
    for name, words in wanted.items():
        present = {key: count for key, count in found.items() if key[0] in _range(output, name)}
        for va, kind in sorted(words | present.keys()):
            count, should = present.get((va, kind), 0), int((va, kind) in words)
            if count != should:
                message = f"{count} relocations of kind {kind}, {should} belong there"
                report.add(ANNOTATION_RELOCATION, va, message, name)
        _check_raw(output, name, len(words), report)


def _check_raw(output: ElfImage, name: str, expected: int, report: Report) -> None:
    """No relocation of another kind stands in the section of relocations."""
    rel = output.section_by_name.get(f".rel{name}")
    size = 0 if rel is None else rel.size
    if size != expected * RAW_REL.itemsize:
        message = f"{size} bytes of relocations, {expected * RAW_REL.itemsize} belong there"
        report.add(ANNOTATION_RELOCATION, 0, message, f".rel{name}")


def _wanted(output: ElfImage, bodies: Bodies) -> dict[str, set[tuple[int, int]]]:
    """By section, the words (address and kind) that have to be filled in."""
    result: dict[str, set[tuple[int, int]]] = {}
    for name, entry_len, fields in (
        *((name, RECORD_LEN, (NATIVE_VA_OFF, TRANSLATION_VA_OFF)) for name in RECORD_SECTIONS),
        (THUNK_CALLS, PAIR.size, (0,)),
        (FALLBACK, PAIR.size, (0,)),
    ):
        if name in output.section_by_name:
            range_ = _range(output, name)
            entries = range(range_.start, range_.stop - entry_len + 1, entry_len)
            result[name] = {(va + field, R_386_32) for va in entries for field in fields}
    if TRANSLATIONS in output.section_by_name:
        result[TRANSLATIONS] = {
            (body.record.translation_va + 1, R_386_PC32)
            for body in bodies.bodies
            if body.record.call_off == FINAL_TRANSLATION
        }
    return result


def _range(output: ElfImage, name: str) -> range:
    section = output.section_by_name[name]
    return range(section.va, section.end_va)

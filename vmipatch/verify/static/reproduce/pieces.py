# SPDX-License-Identifier: MIT
"""Which sections does the output have, and what is in those that are not loaded?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from vmipatch.image.elf import NAMES_INDEX_AT, ElfImage
from vmipatch.image.symbols import SYMBOL
from vmipatch.image.types import SectionKind
from vmipatch.restore.note import SECTION as NOTE
from vmipatch.verify.static.added import NEW_CODE
from vmipatch.verify.static.comparison import Comparison
from vmipatch.verify.static.manifest import SECTION as MANIFEST
from vmipatch.verify.static.outline import TRAMPOLINES
from vmipatch.verify.static.reproduce.added import AddedPart, relocations_of_thunks
from vmipatch.verify.static.reproduce.code import text_offset
from vmipatch.verify.static.reproduce.decisions import Change
from vmipatch.verify.static.reproduce.headers import name_table
from vmipatch.verify.static.reproduce.heads import ALLOC, EXEC, PROGBITS, REL, SECTION_HEAD
from vmipatch.verify.static.reproduce.layout import Layout
from vmipatch.verify.static.reproduce.manifest import manifest_bytes
from vmipatch.verify.static.reproduce.relocations import (
    relocation_section,
    relocations_out_of_line,
)
from vmipatch.verify.static.reproduce.rows import Row
from vmipatch.verify.static.reproduce.symbols import symbol_table

CODE_ALIGN, RELOCATION_ALIGN, RELOCATION_LEN = 16, 4, 8


@dataclass(frozen=True, slots=True)
class UnloadedContent:
    """The bytes of a section that is not loaded."""

    data: bytes = field(repr=False)
    row: Row


@dataclass(frozen=True, slots=True, eq=False)
class Sections:
    """All sections of the output, those of the original first."""

    heads: np.ndarray
    """Dtype SECTION_HEAD; offsets and sizes of what is not loaded are not known yet."""
    contents: tuple[UnloadedContent | None, ...]
    """None for a section that is loaded, or whose header stands for nothing."""
    symbols: np.ndarray = field(default_factory=lambda: np.zeros(0, SYMBOL))
    """Of a module: the linked symbols, dtype SYMBOL."""


def sections_of(
    comparison: Comparison, new: Layout, changes: Sequence[Change], code: Sequence[AddedPart],
    records: Sequence[AddedPart], records_off: int,
) -> Sections:  # fmt: skip
    """Every section. `records` begin at `records_off` of the file."""
    names = [s.name for s in comparison.inputs.original.sections]
    names += [part.name for part in (*code, *records)]
    relocated = _relocated(comparison, new)
    names += [f".rel{name}" for name in relocated] + [MANIFEST, NOTE]
    table, name_at = name_table(names)
    added = _added(comparison, new, code, records, records_off)
    added += _unloaded(comparison, list(relocated), [part.name for part in code])
    heads = np.concatenate([new.heads, np.array(added, SECTION_HEAD)])
    heads["name"] = [name_at[name] for name in names]
    symbols = symbol_table(comparison, new, changes, [*code, *records])
    image = comparison.inputs.original
    moved = partial(relocation_section, comparison.original, new)
    contents = [*originals(image, symbols, table, moved), *(None for _ in (*code, *records))]
    contents += [UnloadedContent(entries, Row.RELOCATIONS) for entries in relocated.values()]
    contents.append(UnloadedContent(manifest_bytes(comparison, new), Row.MANIFEST))
    contents.append(UnloadedContent(b"", Row.NOTE))
    return Sections(heads, tuple(contents))


def _added(
    comparison: Comparison,
    new: Layout,
    code: Sequence[AddedPart],
    records: Sequence[AddedPart],
    records_off: int,
) -> list[tuple[int, ...]]:
    """The headers of added sections that are loaded."""
    rows: list[tuple[int, ...]] = [
        (0, PROGBITS, ALLOC | EXEC, p.va, text_offset(comparison, new, p.va), len(p.data),
         0, 0, CODE_ALIGN, 0)
        for p in code
    ]  # fmt: skip
    rows += [
        (0, PROGBITS, ALLOC, p.va, records_off + p.va - records[0].va, len(p.data), 0, 0, 1, 0)
        for p in records
    ]
    return rows


def _relocated(comparison: Comparison, new: Layout) -> dict[str, bytes]:
    """The relocations of added code, by its section; those of windows only if there are any."""
    found = {NEW_CODE: relocations_of_thunks(comparison)}
    moved = relocations_out_of_line(comparison.original, new)
    return found | {TRAMPOLINES: moved} if moved else found


def _unloaded(
    comparison: Comparison, relocated: Sequence[str], code: Sequence[str]
) -> list[tuple[int, ...]]:
    """The headers of relocation sections, manifest and note."""
    image = comparison.inputs.original
    symtab = next(s.index for s in image.sections if s.kind is SectionKind.SYMTAB)
    holders = [len(image.sections) + code.index(name) for name in relocated]
    rows: list[tuple[int, ...]] = [
        (0, REL, 0, 0, 0, 0, symtab, holder, RELOCATION_ALIGN, RELOCATION_LEN) for holder in holders
    ]
    return rows + [(0, PROGBITS, 0, 0, 0, 0, 0, 0, 1, 0)] * 2


def originals(
    file: ElfImage,
    symbols: tuple[bytes, bytes],
    names: bytes,
    relocation: Callable[[int], bytes],
) -> Iterator[UnloadedContent | None]:
    """The contents of the sections of `file`, in their order.

    `relocation` gives those of a relocation section of what is loaded, by its index.
    """
    names_at = int.from_bytes(file.data[NAMES_INDEX_AT : NAMES_INDEX_AT + 2], "little")
    symtab = next(s for s in file.sections if s.kind is SectionKind.SYMTAB)
    for section in file.sections:
        if section.is_alloc or section.kind is SectionKind.NULL:
            yield None
        elif section.index == names_at:
            yield UnloadedContent(names, Row.SECTION_NAMES)
        elif section.kind is SectionKind.SYMTAB:
            yield UnloadedContent(symbols[0], Row.SYMBOLS)
        elif section.index == symtab.link:
            yield UnloadedContent(symbols[1], Row.SYMBOL_NAMES)
        elif section.is_debug:  # it would be stale
            yield UnloadedContent(b"", Row.UNLOADED)
        elif section.kind is SectionKind.REL and file.sections[section.info].is_alloc:
            yield UnloadedContent(relocation(section.index), Row.RELOCATIONS)
        else:
            yield UnloadedContent(file.section_bytes(section), Row.UNLOADED)

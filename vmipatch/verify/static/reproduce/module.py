# SPDX-License-Identifier: MIT
"""Which file should a rewritten module be, byte for byte?

It is put together linked, as a kernel is, and then its addresses are taken out again: a word holds
what it adds to its symbol, and a symbol counts from its section.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vmipatch.image.elf import ElfImage
from vmipatch.image.module import ModuleRegions
from vmipatch.image.relocations import R_386_32, R_386_NONE, RAW_REL
from vmipatch.image.symbols import SHN_UNDEF
from vmipatch.image.types import SectionKind
from vmipatch.restore.note import SECTION as NOTE
from vmipatch.verify.static.added import NEW_CODE
from vmipatch.verify.static.comparison import Comparison
from vmipatch.verify.static.data import build_id
from vmipatch.verify.static.manifest import SECTION as MANIFEST
from vmipatch.verify.static.reproduce import code, data
from vmipatch.verify.static.reproduce.added import AddedPart, record_parts, relocations_of_thunks
from vmipatch.verify.static.reproduce.canvas import Canvas
from vmipatch.verify.static.reproduce.decisions import Change, changes_of
from vmipatch.verify.static.reproduce.headers import file_header, name_table
from vmipatch.verify.static.reproduce.heads import ALLOC, EXEC, PROGBITS, REL, SECTION_HEAD
from vmipatch.verify.static.reproduce.layout import Layout
from vmipatch.verify.static.reproduce.manifest import manifest_bytes
from vmipatch.verify.static.reproduce.module_layout import CODE_ALIGN, PART_ALIGN, module_layout
from vmipatch.verify.static.reproduce.module_links import Links
from vmipatch.verify.static.reproduce.pieces import Sections, UnloadedContent, originals
from vmipatch.verify.static.reproduce.place import (
    HEAD_ALIGN,
    Reproduction,
    place,
    put_identity,
    put_note,
    put_rest,
)
from vmipatch.verify.static.reproduce.rows import Row
from vmipatch.verify.static.reproduce.symbols import moved_symbols

REL_LEN = RAW_REL.itemsize


@dataclass(frozen=True, slots=True, eq=False)
class _Relocated:
    """The linked relocations of one section of the output."""

    holder: int
    """Index of the section whose words they fill in."""
    entries: np.ndarray


def reproduce_module(comparison: Comparison, file: ElfImage) -> Reproduction:
    """Build the file that `comparison.output` was linked from; `file` is the original, unlinked."""
    changes = changes_of(comparison)
    new = module_layout(comparison, file, changes)
    parts = [_thunks(comparison, new), *record_parts(comparison, new)]
    sections, rels, offs = _sections(comparison, file, new, changes, parts)
    end = place(sections, offs[-1] + len(parts[-1].data))
    head_off = -(-end // HEAD_ALIGN) * HEAD_ALIGN
    note_off = head_off + SECTION_HEAD.itemsize * len(sections.heads)
    note = comparison.output.section_bytes(comparison.output.section_by_name[NOTE])
    canvas = Canvas(note_off + len(note))
    canvas.put(0, bytes(offs[-1] + len(parts[-1].data)), Row.ZEROS)
    data.put_data(canvas, comparison, new)
    code.put_code(canvas, comparison, new, changes)
    data.put_words(canvas, comparison, new)
    data.put_tables(canvas, comparison, new)
    for part, off in zip(parts, offs, strict=True):
        canvas.put(off, part.data, part.row)
    _unlink(canvas, sections, rels)
    put_rest(canvas, sections)
    heads = sections.heads
    heads["va"] = 0
    heads["va"][: len(file.sections)] = [section.va for section in file.sections]
    head = file_header(file, new, head_off, 0, len(heads))
    canvas.put(0, head, Row.ELF_HEADER)
    canvas.put(head_off, heads.tobytes(), Row.SECTION_HEADERS)
    found = _identity(file, new)
    if found is not None:
        put_identity(canvas, found, note_off)
    put_note(canvas, heads, head_off, note_off, note)
    return Reproduction(canvas, tuple(changes))


def _thunks(comparison: Comparison, new: Layout) -> AddedPart:
    section = comparison.output.section_by_name[NEW_CODE]
    return AddedPart(NEW_CODE, new.room[0], comparison.output.section_bytes(section), Row.THUNKS)


def _sections(
    comparison: Comparison, file: ElfImage, new: Layout, changes: Sequence[Change],
    parts: Sequence[AddedPart],
) -> tuple[Sections, list[_Relocated], list[int]]:  # fmt: skip
    """The sections of the output, their relocations, and where the parts lie in the file."""
    image = comparison.original
    links = Links(
        moved_symbols(comparison, new, changes, image.executable_sections),
        file.symbols.strings,
        ModuleRegions.of(file.sections),
    )
    for part in parts:
        links.label(part)
    thunks = relocations_of_thunks(comparison)
    raw = [links.relocations(part, thunks, parts[0]) for part in parts]
    first = len(file.sections)
    rels = [
        _Relocated(s.info, _moved(image, s.index, new))
        for s in file.sections
        if s.kind is SectionKind.REL and image.sections[s.info].is_alloc and not s.is_debug
    ]
    rels += [_Relocated(first + i, np.frombuffer(r, RAW_REL)) for i, r in enumerate(raw)]
    heads, offs = _added_heads(new, parts, file, first)
    names = [s.name for s in file.sections] + [part.name for part in parts]
    names += [f".rel{part.name}" for part in parts] + [MANIFEST, NOTE]
    table, at = name_table(names)
    heads = np.concatenate([new.heads, heads])
    heads["name"] = [at[name] for name in names]
    linked = links.symbols
    symbols = (_stored(linked, file, heads).tobytes(), bytes(links.names))

    def relocation(index: int) -> bytes:
        return _counted(_moved(image, index, new), int(heads["va"][file.sections[index].info]))

    contents = [*originals(file, symbols, table, relocation), *(None for _ in parts)]
    contents += [
        UnloadedContent(_counted(np.frombuffer(r, RAW_REL), p.va), Row.RELOCATIONS)
        for r, p in zip(raw, parts, strict=True)
    ]
    contents.append(UnloadedContent(manifest_bytes(comparison, new), Row.MANIFEST))
    contents.append(UnloadedContent(b"", Row.NOTE))
    return Sections(heads, tuple(contents), linked), rels, offs


def _moved(image: ElfImage, index: int, new: Layout) -> np.ndarray:
    """The linked entries of one relocation section, at their new places."""
    raw = np.frombuffer(image.section_bytes(image.sections[index]), RAW_REL).copy()
    real = raw["info"] & 0xFF != R_386_NONE
    raw["offset"][real] = new.moves(raw["offset"][real].astype(np.int64)).astype(np.uint32)
    return raw


def _counted(entries: np.ndarray, start_va: int) -> bytes:
    """The entries as a file has them: their places count from the section."""
    result = entries.copy()
    real = result["info"] & 0xFF != R_386_NONE
    result["offset"][real] -= np.uint32(start_va)
    return result.tobytes()


def _added_heads(
    new: Layout, parts: Sequence[AddedPart], file: ElfImage, first: int
) -> tuple[np.ndarray, list[int]]:
    """The headers of added sections, and the offsets of those that are loaded."""
    symtab = next(s for s in file.sections if s.kind is SectionKind.SYMTAB)
    rows, offs, at = [], [], new.memory_len
    for part in parts:
        is_code = part is parts[0]
        align = CODE_ALIGN if is_code else PART_ALIGN
        at += -at % align
        flags = ALLOC | EXEC if is_code else ALLOC
        rows.append((0, PROGBITS, flags, part.va, at, len(part.data), 0, 0, align, 0))
        offs.append(at)
        at += len(part.data)
    for index in range(len(parts)):
        rows.append((0, REL, 0, 0, 0, 0, symtab.index, first + index, PART_ALIGN, REL_LEN))
    rows += [(0, PROGBITS, 0, 0, 0, 0, 0, 0, 1, 0)] * 2
    return np.array(rows, SECTION_HEAD), offs


def _stored(linked: np.ndarray, file: ElfImage, heads: np.ndarray) -> np.ndarray:
    """The symbols as a file has them: counted from their sections, absolute ones as they were."""
    result, was = linked.copy(), file.symbols.entries
    shndx = linked["shndx"].astype(np.int64)
    result["value"] -= heads["va"][shndx]
    outside = np.flatnonzero(shndx[: len(was)] == SHN_UNDEF)
    result[outside] = was[outside]
    return result


def _unlink(canvas: Canvas, sections: Sections, rels: Sequence[_Relocated]) -> None:
    """Take the addresses of symbols out of the words that a loader fills in."""
    value = sections.symbols["value"].astype(np.int64)
    for rel in rels:
        head = sections.heads[rel.holder]
        words = rel.entries[rel.entries["info"] & 0xFF != R_386_NONE]
        va = words["offset"].astype(np.int64)
        held = -value[words["info"] >> 8]
        held += np.where(words["info"] & 0xFF == R_386_32, 0, va)
        canvas.add_words(va - int(head["va"]) + int(head["off"]), held)


def _identity(file: ElfImage, new: Layout) -> tuple[int, int] | None:
    """Offset in the output and length of the build-id; None if the original has none."""
    found = build_id(file)
    if found is None:
        return None
    holder = next(s for s in file.allocated_sections if s.off <= found[0] < s.off + s.size)
    return found[0] - holder.off + int(new.heads["off"][holder.index]), found[1]

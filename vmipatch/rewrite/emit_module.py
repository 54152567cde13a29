# SPDX-License-Identifier: MIT
"""The file of a rewritten module: its sections, longer, and those of ours, none of them linked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from vmipatch.image.elf import ElfImage
from vmipatch.image.elf_write import Content, write_elf
from vmipatch.image.module import REGION_LEN, Module, ModuleRegions, unlink
from vmipatch.image.relocations import R_386_32, R_386_NONE, R_386_PC32, RAW_REL
from vmipatch.image.symbols import SHN_UNDEF, STT_SECTION, SYMBOL
from vmipatch.image.types import Section, SectionFlag, SectionKind
from vmipatch.restore import empty_note
from vmipatch.rewrite.annotate import AnnotationPart, AnnotationSegment
from vmipatch.rewrite.attach import Added
from vmipatch.rewrite.placement import Placement
from vmipatch.rewrite.references import Words
from vmipatch.vmi.record import (
    NATIVE_VA_OFF,
    NEAR_CALL_LEN,
    RECORD_LEN,
    TRANSLATION_VA_OFF,
)

CODE_ALIGN, WORD_ALIGN = 16, 4
PAIR_LEN = 8
GLOBAL_NOTYPE = 0x10
"""st_info of a global label (System V ABI, chapter 4)."""
EHDR_LEN = 52


def emit_module(
    module: Module,
    placement: Placement,
    code: Mapping[int, bytes],
    words: Words,
    added: Added,
    annotations: AnnotationSegment,
    manifest: bytes,
) -> bytes:
    """Put the new file together.

    `code` holds the new bytes of executable sections by index, `words` what to write over them and
    over data, all of it linked; the file holds what a loader has to link.
    """
    emitter = _Emitter(module, placement, code)
    emitter.write_words(words)
    emitter.add(added, annotations)
    return emitter.finish(manifest)


class _Emitter:
    """Sections, contents and symbols while they grow; everything linked."""

    def __init__(self, module: Module, placement: Placement, code: Mapping[int, bytes]) -> None:
        self._file, self._image, self._placement = module.file, module.image, placement
        image = module.image
        self._regions = ModuleRegions.of(module.file.sections)
        self._data = {
            s.index: bytearray(code.get(s.index, image.section_bytes(s)))
            for s in image.sections
            if s.has_bytes
        }
        self._sections = [
            replace(s, size=len(self._data[s.index])) if s.is_alloc and s.has_bytes else s
            for s in (module.file.sections[0], *image.sections[1:])
        ]
        for section in self._sections:
            if section.is_debug:
                self._data[section.index] = bytearray()  # stale addresses are worse than none
            elif self._relocates(section):
                self._data[section.index] = self._moved_relocations(section)
        self._symtab = next(s for s in module.file.sections if s.kind is SectionKind.SYMTAB)
        self._strings = bytearray(module.file.symbols.strings)
        self._symbols = self._moved_symbols()
        self._symbol_of = self._section_symbols()

    def _relocates(self, section: Section) -> bool:
        return section.kind is SectionKind.REL and self._image.sections[section.info].is_alloc

    def _moved_relocations(self, section: Section) -> bytearray:
        raw = np.frombuffer(self._image.section_bytes(section), RAW_REL).copy()
        real = (raw["info"] & 0xFF) != R_386_NONE
        raw["offset"][real] = self._placement.map(raw["offset"][real]).astype(np.uint32)
        return bytearray(raw.tobytes())

    def _moved_symbols(self) -> list[np.ndarray]:
        """The linked symbols at their new places; functions reach to where their ends are now."""
        entries = self._image.symbols.entries.copy()
        move, code = self._placement.map, np.isin(entries["shndx"], list(self._placement.changes))
        values = entries["value"].astype(np.int64)
        new = move(values)
        was = values + entries["size"]
        ends = move(was) - self._placement.inserted_at(was)
        sized = code & (entries["size"] > 0)
        entries["value"][code] = new[code].astype(np.uint32)
        entries["size"][sized] = (ends - new)[sized].astype(np.uint32)
        return [entries]

    def _section_symbols(self) -> dict[int, int]:
        entries = self._symbols[0]
        chosen = np.flatnonzero((entries["info"] & 15) == STT_SECTION)
        return {int(entries["shndx"][i]): i for i in chosen.tolist()}

    def write_words(self, words: Words) -> None:
        """Write each word at its new linked address."""
        region = words.va // REGION_LEN
        for number in np.unique(region).tolist():
            mine = region == number
            start_va = number * REGION_LEN
            octets = np.frombuffer(self._data[self._regions.index_at(start_va)], np.uint8)
            spot = (words.va[mine] - start_va)[:, None] + np.arange(4)
            octets[spot] = words.value[mine].astype("<u4").view(np.uint8).reshape(-1, 4)

    def add(self, added: Added, annotations: AnnotationSegment) -> None:
        """Append thunks and annotations, with the relocations that link them."""
        text = AnnotationPart(".vmi.text", "__vmi_text", added.va, added.code)
        relocations = {text.name: added.relocations}
        exec_flags = SectionFlag.ALLOC | SectionFlag.EXEC
        for part in (text, *annotations.parts):
            is_code = part is text
            self._append(
                part.name,
                exec_flags if is_code else SectionFlag.ALLOC,
                part.va,
                part.data,
                CODE_ALIGN if is_code else WORD_ALIGN,
            )
            self._symbol_of[self._sections[-1].index] = self._label(part.symbol, part.va)
        records = (annotations.records, annotations.init_records)
        for part in records:
            entries = [
                (part.va + at + field, R_386_32)
                for at in range(0, len(part.data), RECORD_LEN)
                for field in (NATIVE_VA_OFF, TRANSLATION_VA_OFF)
            ]
            relocations[part.name] = self._entries(part, entries)
        for part in (annotations.thunk_calls, annotations.fallback):
            entries = [(part.va + at, R_386_32) for at in range(0, len(part.data), PAIR_LEN)]
            relocations[part.name] = self._entries(part, entries)
        part = annotations.translations
        aimed = range(NEAR_CALL_LEN, len(part.data) - NEAR_CALL_LEN + 1, NEAR_CALL_LEN)
        thunks = self._symbol_of[self._regions.index_at(text.va)]
        relocations[part.name] = _packed(
            [(part.va + at + 1, thunks << 8 | R_386_PC32) for at in aimed]
        )
        for part in (text, *annotations.parts):
            self._append_relocations(part, relocations[part.name])

    def _entries(self, part: AnnotationPart, places: Sequence[tuple[int, int]]) -> bytes:
        """Elf32_Rel entries for words that hold linked addresses: the section says the symbol."""
        rows = []
        for va, kind in places:
            held = int.from_bytes(part.data[va - part.va : va - part.va + 4], "little")
            rows.append((va, self._symbol_for(self._regions.index_at(held)) << 8 | kind))
        return _packed(rows)

    def _symbol_for(self, index: int) -> int:
        """A symbol at the start of section `index`; one is made where the file has none."""
        if index not in self._symbol_of:
            va = self._regions.va(index)
            self._symbol_of[index] = self._label(f"__vmi_section_{index}", va)
        return self._symbol_of[index]

    def _label(self, name: str, va: int) -> int:
        number = sum(map(len, self._symbols))
        row = (len(self._strings), va, 0, GLOBAL_NOTYPE, 0, self._regions.index_at(va))
        self._symbols.append(np.array([row], dtype=SYMBOL))
        self._strings += name.encode() + b"\0"
        return number

    def _append(self, name: str, flags: SectionFlag, va: int, data: bytes, align: int) -> None:
        index = len(self._sections)
        self._sections.append(
            Section(index, name, SectionKind.PROGBITS, flags, va, 0, len(data), 0, 0, align, 0)
        )
        self._data[index] = bytearray(data)

    def _append_relocations(self, part: AnnotationPart, entries: bytes) -> None:
        index = len(self._sections)
        applies_to = self._regions.index_at(part.va)
        self._sections.append(
            Section(
                index, f".rel{part.name}", SectionKind.REL, SectionFlag.NONE, 0, 0, len(entries),
                self._symtab.index, applies_to, WORD_ALIGN, RAW_REL.itemsize,
            )
        )  # fmt: skip
        self._data[index] = bytearray(entries)

    def finish(self, manifest: bytes) -> bytes:
        """Take the addresses out again and write the file."""
        self._append(".vmi.manifest", SectionFlag.NONE, 0, manifest, 1)
        symbols = np.concatenate(self._symbols)
        linked = {index: bytes(data) for index, data in self._data.items()}
        stored = unlink(self._sections, linked, symbols)
        stored[self._symtab.index] = self._stored_symbols(symbols).tobytes()
        stored[self._symtab.link] = bytes(self._strings)
        return _write(self._file, self._sections, stored)

    def _stored_symbols(self, symbols: np.ndarray) -> np.ndarray:
        """The symbols as a file has them: counted from their sections, absolute ones untouched."""
        result, was = symbols.copy(), self._file.symbols.entries
        shndx = symbols["shndx"].astype(np.int64)
        alloc = np.array([s.is_alloc for s in self._sections])
        regular = shndx != SHN_UNDEF
        in_memory = regular & alloc[np.where(regular, shndx, 0)]
        start_va = np.array([s.va for s in self._sections], np.int64)
        result["value"][in_memory] -= start_va[shndx[in_memory]].astype(np.uint32)
        outside = np.flatnonzero(~regular[: len(was)])
        result[outside] = was[outside]
        return result


def _packed(rows: Sequence[tuple[int, int]]) -> bytes:
    return np.array(rows, dtype=RAW_REL).tobytes()


def _write(file: ElfImage, sections: Sequence[Section], stored: Mapping[int, bytes]) -> bytes:
    """The file with the sections that occupy memory in front, in their order."""
    contents, at = [], EHDR_LEN
    for section in sections:
        data = stored.get(section.index, b"")
        at += -at % max(section.align, 1) if section.is_alloc else 0
        placed = replace(section, va=0, off=at) if section.is_alloc else section
        at += len(data) if section.is_alloc else 0
        contents.append(Content(placed, data))
    contents.append(empty_note(len(contents)))
    memory = bytearray(at)
    memory[:EHDR_LEN] = file.data[:EHDR_LEN]
    return write_elf(file, bytes(memory), contents, [])

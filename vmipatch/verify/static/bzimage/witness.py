# SPDX-License-Identifier: MIT
"""The kernel in a bzImage, with the symbols and relocations that the build takes out of it.

Made from the original and the sections of the output: gaps, headers and what is not loaded are the
original's, moved as the manifest says. The static proof takes it as it takes a vmlinux, and what
the bzImage must hold is made from it (`payload`).
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass, field, replace

import numpy as np

from vmipatch.image.elf import ENTRY_AT, ElfImage
from vmipatch.image.elf_write import Content, write_elf
from vmipatch.image.hook import START
from vmipatch.image.relocations import R_386_32, R_386_NONE, RAW_REL, Relocations
from vmipatch.image.symbols import SHN_ABS, SYMBOL
from vmipatch.image.types import Section, SectionFlag, SectionKind, Segment
from vmipatch.restore import empty_note
from vmipatch.verify.static.added import NEW_CODE, NEW_RELOCATIONS
from vmipatch.verify.static.bzimage.moves import I64, RangeMoves
from vmipatch.verify.static.bzimage.out_of_line import places_out_of_line
from vmipatch.verify.static.manifest import SECTION as MANIFEST_SECTION
from vmipatch.verify.static.manifest import Manifest
from vmipatch.verify.static.outline import TRAMPOLINES
from vmipatch.verify.static.room import PAGE, TEXT, room_end
from vmipatch.verify.static.side import file_offsets, words_at
from vmipatch.verify.static.symbols import GLOBAL_NOTYPE, NEW_BOUNDS, NEW_START


class Unlike(Exception):
    """The output has not even the sections of the original; the message says which."""


@dataclass(frozen=True, slots=True)
class WitnessParts:
    """The inputs of a witness."""

    original: ElfImage
    """With symbols and relocations."""
    inside: ElfImage
    """The kernel in the output, without."""
    moves: RangeMoves
    manifest: Manifest
    relocs: tuple[int, ...] = field(repr=False)
    """The relocation list of the output."""
    unpacked: Collection[str] = ()
    """Loaded sections of the original that its bzImage does not hold."""


def witness(parts: WitnessParts) -> ElfImage:
    """The kernel of the output as a vmlinux. Raises Unlike."""
    return _Witness(parts).image()


class _Witness:
    def __init__(self, parts: WitnessParts) -> None:
        self.parts, self.original, self.inside = parts, parts.original, parts.inside
        self.shift = parts.manifest.shift_len
        text = self.original.section_by_name.get(TEXT)
        if text is None:
            raise Unlike(f"the original has no {TEXT}")
        self.text = text
        self.cut_off = text.off + room_end(self.original) - text.va
        """Offset in the file at which pages are inserted."""
        self.pairs, self.added = self._pairs()
        self.out_of_line = places_out_of_line(self.original, self.inside, parts.manifest.windows)
        """New places of relocated words in trampolines, by original ones."""
        self.sections = [self._moved(section) for section in self.original.sections]

    def image(self) -> ElfImage:
        loaded = max(s.off + s.file_len for s in self.original.loads)
        front = self.original.data[: self.cut_off].ljust(self.cut_off, b"\0") + bytes(self.shift)
        memory = bytearray(front + self.original.data[self.cut_off : loaded])
        memory[ENTRY_AT : ENTRY_AT + 4] = struct.pack("<I", self.inside.entry)
        for index, found in self.pairs.items():
            now = self.sections[index]
            if now.has_bytes:
                memory[now.off : now.off + now.size] = self.inside.section_bytes(found)
        code = [self._code(found) for found in self.added if found.is_exec]
        data = self._records(memory, len(self.sections) + len(code))
        strings, symbols = self._symbols([*code, *data])
        contents = [self._content(s, bytes(memory), symbols, strings) for s in self.sections]
        contents += [*code, *data]
        home = next((c.section.index for c in code if c.section.name == NEW_CODE), 0)
        contents.append(self._relocations_of_added(len(contents), home))
        if self.out_of_line:
            home = next(c.section.index for c in code if c.section.name == TRAMPOLINES)
            contents.append(self._relocations_out_of_line(len(contents), home))
        manifest = self.inside.section_by_name.get(MANIFEST_SECTION)
        said = b"" if manifest is None else self.inside.section_bytes(manifest)
        contents.append(_loose(len(contents), MANIFEST_SECTION, said))
        contents.append(empty_note(len(contents)))
        made = write_elf(self.original, bytes(memory), contents, self._segments(len(memory)))
        return ElfImage.parse(made, self.inside.name)

    def _pairs(self) -> tuple[dict[int, Section], list[Section]]:
        """Sections of the output by index of the original's, and the new ones that are loaded."""
        loaded = [s for s in self.inside.sections if s.is_alloc]
        kept = [
            s for s in self.original.sections if s.is_alloc and s.name not in self.parts.unpacked
        ]
        for was, now in zip(kept, loaded, strict=False):
            if was.name != now.name:
                raise Unlike(f"a section was {was.name} and is {now.name}")
            if now.size != was.size and not was.is_exec:
                raise Unlike(f"{was.name} had {was.size} bytes and has {now.size}")
        if len(loaded) < len(kept):
            raise Unlike(f"there is no section {kept[len(loaded)].name}")
        pairs = {was.index: now for was, now in zip(kept, loaded, strict=False)}
        return pairs, loaded[len(kept) :]

    def _moved(self, section: Section) -> Section:
        shift = self.shift if section.off >= self.cut_off else 0
        found = self.pairs.get(section.index)
        if found is None:
            va = (section.va + shift) & 0xFFFFFFFF if section.va else 0
            return replace(section, off=section.off + shift, va=va)
        off = section.off + found.va - section.va
        if not 0 <= off < 1 << 31:
            raise Unlike(f"{section.name} is at {found.va:#x}, far from where it was")
        size = found.size if section.is_exec else section.size
        return replace(section, va=found.va, off=off, size=size)

    def _code(self, found: Section) -> Content:
        off = found.va - self.text.va + self.text.off
        index = len(self.sections) + self.added.index(found)
        flags = SectionFlag.ALLOC | SectionFlag.EXEC
        section = _section(index, found, flags, off, CODE_ALIGN)
        return Content(section, self.inside.section_bytes(found))

    def _records(self, memory: bytearray, first: int) -> list[Content]:
        """The sections of records, as a segment of their own after all else."""
        memory += bytes(-len(memory) % PAGE)
        contents = []
        found = [section for section in self.added if not section.is_exec]
        for index, each in enumerate(found, first):
            data = self.inside.section_bytes(each)
            section = _section(index, each, SectionFlag.ALLOC, len(memory), 1)
            contents.append(Content(section, data))
            memory += data
        return contents

    def _segments(self, end: int) -> list[Segment]:
        """Those of the output, at the offsets that they have in this file."""
        result = []
        for was, now in zip(self.original.segments, self.inside.segments, strict=False):
            shift = self.shift if was.off >= self.cut_off else 0
            result.append(replace(now, off=was.off + shift))
        for new in self.inside.segments[len(result) :]:
            result.append(replace(new, off=end - new.file_len))
        return result

    def _content(self, section: Section, memory: bytes, symbols: bytes, strings: bytes) -> Content:
        was = self.original.sections[section.index]
        if section.is_alloc:
            size = section.size if section.has_bytes else 0
            return Content(section, memory[section.off : section.off + size])
        if section.kind is SectionKind.SYMTAB:
            return Content(section, symbols)
        if section.index == self._table.link:
            return Content(section, strings)
        if was.is_debug:
            return Content(section, b"")
        data = self.original.section_bytes(was)
        if section.kind is SectionKind.REL and self.original.sections[section.info].is_alloc:
            data = self._entries(data)
        return Content(section, data)

    @property
    def _table(self) -> Section:
        return next(s for s in self.original.sections if s.kind is SectionKind.SYMTAB)

    def _entries(self, data: bytes) -> bytes:
        """Relocations at the places of their words."""
        entries = np.frombuffer(data, RAW_REL).copy()
        entries["info"][np.isin(entries["offset"], list(self.out_of_line))] = R_386_NONE
        real = (entries["info"] & 0xFF) != R_386_NONE
        places = entries["offset"][real].astype(np.int64)
        entries["offset"][real] = self._images(places, is_word=True).astype(np.uint32)
        return entries.tobytes()

    def _images(self, vas: I64, *, is_word: bool = False) -> I64:
        """Where addresses of the original are: in code by the note, elsewhere with their section.

        A word does not move with the padding before its instruction.
        """
        code = np.zeros(len(vas), np.bool_)
        for section in self.original.executable_sections:
            code |= (vas >= section.va) & (vas < section.end_va)
        moved = self._as_data(vas)
        moves = self.parts.moves
        moved[code] = moves.inside(vas[code]) if is_word else moves(vas[code])
        return moved

    def _as_data(self, vas: I64) -> I64:
        """The address, moved as the section that holds it or precedes it."""
        sections = self.original.allocated_sections
        starts = np.array([s.va for s in sections], np.int64)
        deltas = np.array([self.sections[s.index].va - s.va for s in sections], np.int64)
        at = np.searchsorted(starts, vas, side="right") - 1
        moved: I64 = vas + np.where(at >= 0, deltas[np.maximum(at, 0)], 0)
        for section in self.original.executable_sections:
            now = self.sections[section.index]
            after = [s for s in sections if s.va >= section.end_va and s.size]
            follower = min(after, key=lambda s: s.va, default=section)
            delta = self.sections[follower.index].va - follower.va
            moved[vas == section.end_va] = max(now.end_va, section.end_va + delta)
        return moved

    def _symbols(self, added: list[Content]) -> tuple[bytes, bytes]:
        """String table and symbol table: the original's, and the names of what was added."""
        table = self.original.symbols
        entries = table.entries.copy()
        value, size = (entries[column].astype(np.int64) for column in ("value", "size"))
        low = min(s.va for s in self.original.loads)
        high = max(s.va + s.mem_len for s in self.original.loads)
        linked = (entries["shndx"] > 0) & (entries["shndx"] < SHN_ABS)
        inside = (low <= value) & (value <= high) & ~table.is_number
        linked |= (entries["shndx"] == SHN_ABS) & inside
        code = np.isin(entries["shndx"], [s.index for s in self.original.executable_sections])
        sized = linked & code & (size > 0)
        entries["value"][linked] = self._images(value)[linked].astype(np.uint32)
        ends = self.parts.moves.ends((value + size)[sized])
        entries["size"][sized] = (ends - self._images(value[sized])).astype(np.uint32)
        strings, extra = bytearray(table.strings), []
        for content in added:
            section = content.section
            name = NEW_BOUNDS.get(section.name, section.name)
            for label, va in ((name, section.va), (f"{name}_end", section.end_va)):
                extra.append((len(strings), va, 0, GLOBAL_NOTYPE, 0, section.index))
                strings += label.encode() + b"\0"
        start = self.parts.manifest.redirect.get(table.address(START) or 0)
        if start is not None:
            home = next((c.section.index for c in added if c.section.name == NEW_CODE), 0)
            extra.append((len(strings), start, 0, GLOBAL_NOTYPE, 0, home))
            strings += NEW_START.encode() + b"\0"
        return bytes(strings), entries.tobytes() + np.array(extra, SYMBOL).tobytes()

    def _relocations_of_added(self, index: int, home: int) -> Content:
        """Entries for the words of the added code that the list has, by equal words elsewhere."""
        section = Section(
            index, NEW_RELOCATIONS, SectionKind.REL, SectionFlag.NONE, 0, 0, 0,
            self._table.index, home, 4, RAW_REL.itemsize,
        )  # fmt: skip
        code = next((s for s in self.added if s.name == NEW_CODE), None)
        if code is None:
            return Content(section, b"")
        mine = [va for va in self.parts.relocs if va in code and va + 4 <= code.end_va]
        known = self._words()
        rows = []
        for va in mine:
            word = int.from_bytes(self.inside.read(va, 4), "little")
            rows.append((va, known.get(word, 0)))
        return Content(section, np.array(rows, RAW_REL).tobytes())

    def _relocations_out_of_line(self, index: int, home: int) -> Content:
        """Entries for the words that stand in trampolines."""
        rows = []
        for section in self.original.sections:
            if section.kind is SectionKind.REL and self.original.sections[section.info].is_exec:
                raw = np.frombuffer(self.original.section_bytes(section), RAW_REL)
                mine = raw[np.isin(raw["offset"], list(self.out_of_line))]
                rows += [(self.out_of_line[int(r["offset"])], int(r["info"])) for r in mine]
        section = Section(
            index, f".rel{TRAMPOLINES}", SectionKind.REL, SectionFlag.NONE, 0, 0, 0,
            self._table.index, home, 4, RAW_REL.itemsize,
        )  # fmt: skip
        return Content(section, np.array(sorted(rows), RAW_REL).tobytes())

    def _words(self) -> dict[int, int]:
        """From what relocated words hold in the output to symbol and kind of the original's."""
        entries = Relocations.of(self.original).entries
        absolute = entries["kind"] == R_386_32
        entries = entries[absolute & np.isin(entries["section"], list(self.pairs))]
        places = self._images(entries["va"].astype(np.int64), is_word=True)
        off = file_offsets(self.inside, places)
        entries, off = entries[off >= 0], off[off >= 0]
        held = words_at(np.frombuffer(self.inside.data, np.uint8), off)
        info = entries["symbol"].astype(np.int64) << 8 | entries["kind"]
        return dict(zip(held.tolist(), info.tolist(), strict=True))


CODE_ALIGN = 16
"""Of the sections of added code."""


def _section(index: int, found: Section, flags: SectionFlag, off: int, align: int) -> Section:
    """The header of a loaded section of the rewriter: name, place and size are the output's."""
    return Section(
        index, found.name, SectionKind.PROGBITS, flags, found.va, off, found.size, 0, 0, align, 0
    )


def _loose(index: int, name: str, data: bytes) -> Content:
    """A section that is not loaded."""
    section = Section(
        index, name, SectionKind.PROGBITS, SectionFlag.NONE, 0, 0, len(data), 0, 0, 1, 0
    )
    return Content(section, data)

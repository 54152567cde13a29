# SPDX-License-Identifier: MIT
"""The file of a rewritten kernel: sections in their new places, words led on, tables of ELF."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from vmipatch.errors import MalformedImage, NotSupported
from vmipatch.image.ascending import among
from vmipatch.image.elf import ENTRY_AT, ElfImage
from vmipatch.image.elf_write import Content, write_elf
from vmipatch.image.hook import records_in_room
from vmipatch.image.physical import virtual_distances
from vmipatch.image.relocations import R_386_NONE, RAW_REL
from vmipatch.image.symbols import SHN_ABS, SYMBOL
from vmipatch.image.types import Section, SectionFlag, SectionKind, Segment, SegmentKind
from vmipatch.limits import Limit
from vmipatch.restore import empty_note
from vmipatch.rewrite.annotate import AnnotationPart, AnnotationSegment
from vmipatch.rewrite.attach import Added
from vmipatch.rewrite.placement import PAGE, Placement
from vmipatch.rewrite.references import Words, image_range
from vmipatch.runtime import Runtime

CODE_ALIGN = 16

NEW_CODE = ".vmi.text"
"""Thunks and runtime."""

TRAMPOLINES = ".vmi.trampolines"
START_SYMBOL = b"__vmi_start"
"""Where the callers of start_kernel arrive now."""

LAST_END = 0xFF000000
"""Where a kernel must have ended: what is appended needs far less than the 16 MiB above."""

READ_ONLY = 4
"""p_flags of a segment that is only read."""


@dataclass(frozen=True, slots=True)
class OutOfLine:
    """Code that stands in the room after .text instead of in its place."""

    va: int
    code: bytes = field(repr=False)
    words: Mapping[int, int] = field(hash=False)
    """New address of each relocated word of it, by the original one."""

    def others(self, words: Words) -> Words:
        """Those of `words` that are somewhere else."""
        outside = ~self._holds(words)
        return Words(words.va[outside], words.value[outside])

    def with_words(self, words: Words) -> bytes:
        """The code, `words` that lie in it filled in."""
        code = bytearray(self.code)
        inside = self._holds(words)
        for va, value in zip(words.va[inside].tolist(), words.value[inside].tolist(), strict=True):
            struct.pack_into("<I", code, va - self.va, value)
        return bytes(code)

    def _holds(self, words: Words) -> np.ndarray:
        result: np.ndarray = (words.va >= self.va) & (words.va < self.va + len(self.code))
        return result


def annotation_start_va(image: ElfImage, shift_len: int) -> int:
    """The first page after everything that the kernel reserves or relocates.

    Raises InputNotUnderstood if addresses of 32 bits end too soon after it.
    """
    _, end_va = image_range(image)
    end_pa = max(load.pa + load.mem_len for load in image.loads)
    if max(end_va, end_pa) + shift_len > LAST_END:
        raise NotSupported(
            Limit.TOO_HIGH,
            "the kernel ends so high that no room is left after it",
            file=image.name,
            place=f"{max(end_va, end_pa):#x}",
            hint=f"link it so that it ends below {LAST_END:#x}: Linux needs the rest for fixmaps",
        )
    return -(-(end_va + shift_len) // PAGE) * PAGE


def emit_image(
    image: ElfImage,
    placement: Placement,
    code: Mapping[int, bytes],
    words: Words,
    added: Added,
    trampolines: OutOfLine,
    annotations: AnnotationSegment,
    manifest: bytes,
) -> bytes:
    """Put the new file together.

    `code` holds the new bytes of executable sections by index, `words` what to write over them
    and over data, `added` the code between the end of .text's and that of the room after it, and
    `trampolines` what follows it.
    """
    writer = _Emitter(image, placement, code, trampolines.words)
    writer.write_words(trampolines.others(words))
    code_parts = [AnnotationPart(NEW_CODE, "__vmi_text", added.va, added.code)]
    if trampolines.code:
        held = trampolines.with_words(words)
        code_parts.insert(0, AnnotationPart(TRAMPOLINES, "__vmi_trampolines", trampolines.va, held))
    return writer.finish(added, code_parts, annotations.parts, manifest)


class _Emitter:
    """The front of the new file while it grows, and the new section headers."""

    def __init__(
        self,
        image: ElfImage,
        placement: Placement,
        code: Mapping[int, bytes],
        out_of_line: Mapping[int, int],
    ) -> None:
        self.image, self.placement = image, placement
        self.out_of_line = out_of_line
        self._cut_off = self._text_page_end_off()
        self.sections = [self._moved(section, code) for section in image.sections]
        loaded = max(s.off + s.file_len for s in image.loads)
        front = image.data[: self._cut_off].ljust(self._cut_off, b"\0") + bytes(placement.shift_len)
        self.memory = bytearray(front + image.data[self._cut_off : loaded])
        for index, data in code.items():
            section = self.sections[index]
            self.memory[section.off : section.off + len(data)] = data

    def _text_page_end_off(self) -> int:
        """File offset at which pages are inserted in shift mode."""
        text = self.image.section_by_name[".text"]
        end_va = self.placement.room_end_va - self.placement.shift_len
        return text.off + end_va - text.va

    def _moved(self, section: Section, code: Mapping[int, bytes]) -> Section:
        """The header of one section under the new layout; offsets of loose ones are set later."""
        text = self.image.section_by_name[".text"]
        after = (
            section.is_alloc and section.va >= text.end_va
        )  # an empty one is in no page of its own
        moves = section.off >= self._cut_off or after
        shift = self.placement.shift_len if moves else 0
        if not section.is_alloc:
            return replace(
                section,
                off=section.off + shift,
                va=(section.va + shift) & 0xFFFFFFFF if section.va else 0,
            )
        tail = self.placement.trailing.get(section.index, 0)
        size = len(code[section.index]) if section.index in code else section.size
        return replace(
            section,
            va=section.va + shift + tail,
            off=section.off + shift + tail,
            size=size,
        )

    def write_words(self, words: Words) -> None:
        """Write each word at its new address."""
        octets = np.frombuffer(self.memory, dtype=np.uint8)
        at = self._offsets(words.va)
        for shift in range(4):
            octets[at + shift] = (words.value >> np.uint32(8 * shift)) & np.uint32(0xFF)

    def _offsets(self, vas: np.ndarray) -> np.ndarray:
        result = np.full(len(vas), -1, dtype=np.int64)
        for section in self.sections:
            if section.is_alloc and section.has_bytes:
                inside = (vas >= section.va) & (vas + 4 <= section.end_va)
                result[inside] = vas[inside] - section.va + section.off
        if (result < 0).any():
            lost = int(vas[np.flatnonzero(result < 0)[0]])
            raise MalformedImage(
                "a word to write has no byte in the file",
                file=self.image.name,
                place=f"{lost:#x} (in the output)",
                hint="a table or relocation names a place that no section of the file holds",
            )
        return result

    def finish(
        self,
        added: Added,
        code: Sequence[AnnotationPart],
        parts: Sequence[AnnotationPart],
        manifest: bytes,
    ) -> bytes:
        """Append what is new and write the tables of ELF."""
        struct.pack_into("<I", self.memory, ENTRY_AT, self._entry())
        symbols, strings = self._symbols([*code, *parts], added.runtime)
        segments = self._segments()
        contents = [self._content(s, symbols, strings) for s in self.sections]
        code_flags = SectionFlag.ALLOC | SectionFlag.EXEC
        contents += [
            self._room_section(len(contents) + i, part, code_flags, CODE_ALIGN)
            for i, part in enumerate(code)
        ]
        if records_in_room(added.start):
            contents += [
                self._room_section(len(contents) + i, part, SectionFlag.ALLOC, 1)
                for i, part in enumerate(parts)
            ]
        else:
            segments.append(self._append_segment(parts, contents))
        holder = next(c.section.index for c in contents if c.section.name == NEW_CODE)
        contents.append(
            self._relocation_section(len(contents), NEW_CODE, holder, added.relocations)
        )
        if self.out_of_line:
            holder = next(c.section.index for c in contents if c.section.name == TRAMPOLINES)
            entries = self._moved_relocations()
            contents.append(self._relocation_section(len(contents), TRAMPOLINES, holder, entries))
        contents.append(_loose_section(len(contents), ".vmi.manifest", manifest))
        contents.append(empty_note(len(contents)))
        return write_elf(self.image, bytes(self.memory), contents, segments)

    def _entry(self) -> int:
        """Where the loader enters: Linux has a physical address there, in .init.text since 6.11."""
        entry = self.image.entry
        if self.image.section_at(entry):
            return self.placement.map.one(entry)
        holder = (s for s in self.image.loads if s.pa <= entry < s.pa + s.mem_len)
        offset = next((s.va - s.pa for s in holder), 0)
        return self.placement.map.one(entry + offset) - offset

    def _room_section(
        self, index: int, added: AnnotationPart, flags: SectionFlag, align: int
    ) -> Content:
        """A part of the room after .text's code, inside the same segment."""
        text = self.sections[self.image.section_by_name[".text"].index]
        off = added.va - text.va + text.off
        section = Section(
            index, added.name, SectionKind.PROGBITS, flags, added.va, off, len(added.data),
            0, 0, align, 0,
        )  # fmt: skip
        return Content(section, added.data)

    def _append_segment(self, parts: Sequence[AnnotationPart], contents: list[Content]) -> Segment:
        """The annotations, as a segment of their own after everything else in memory."""
        self.memory += bytes(-len(self.memory) % PAGE)
        start_va, start_off = parts[0].va, len(self.memory)
        for part in parts:
            section = Section(
                len(contents), part.name, SectionKind.PROGBITS, SectionFlag.ALLOC, part.va,
                len(self.memory), len(part.data), 0, 0, 1, 0,
            )  # fmt: skip
            contents.append(Content(section, part.data))
            self.memory += part.data
        first = next(self.image.loads)
        length = len(self.memory) - start_off
        return Segment(
            SegmentKind.LOAD, start_off, start_va, start_va - first.va + first.pa,
            length, length, READ_ONLY, PAGE,
        )  # fmt: skip

    def _relocation_section(self, index: int, name: str, holder: int, entries: bytes) -> Content:
        """The relocations of added code: section `name`, by its index `holder`."""
        table = next(s for s in self.image.sections if s.kind is SectionKind.SYMTAB)
        section = Section(
            index, f".rel{name}", SectionKind.REL, SectionFlag.NONE, 0, 0, len(entries),
            table.index, holder, 4, RAW_REL.itemsize,
        )  # fmt: skip
        return Content(section, entries)

    def _segments(self) -> list[Segment]:
        """The program headers of the input, moved; the one with .text grows."""
        shift, result = self.placement.shift_len, []
        text = self.image.section_by_name[".text"]
        for s in self.image.segments:
            if s.off >= self._cut_off:
                result.append(replace(s, off=s.off + shift, va=s.va + shift, pa=s.pa + shift))
            elif s.off <= text.off < s.off + s.file_len:
                # With nothing after .text the segment ends before its last page does.
                added = max(self._cut_off - s.off - s.file_len, 0) + shift
                result.append(replace(s, file_len=s.file_len + added, mem_len=s.mem_len + added))
            else:
                result.append(s)
        return [self._with_grown_end(s) for s in result]

    def _with_grown_end(self, segment: Segment) -> Segment:
        """The segment, long enough for code at its end that grew (.init.text may be the last)."""
        end_off = segment.off + segment.file_len
        for new in self.sections:
            inside = new.is_alloc and new.has_bytes and segment.off <= new.off < end_off
            if inside and new.is_exec and segment.kind is SegmentKind.LOAD:
                end_off = max(end_off, new.off + new.size)
        added = end_off - segment.off - segment.file_len
        if not added:
            return segment
        return replace(
            segment,
            file_len=segment.file_len + added,
            mem_len=max(segment.mem_len, segment.file_len + added),
        )

    def _content(self, section: Section, symbols: bytes, strings: bytes) -> Content:
        old = self.image.sections[section.index]
        if section.is_alloc:
            size = section.size if section.has_bytes else 0
            return Content(section, bytes(self.memory[section.off : section.off + size]))
        if section.kind is SectionKind.SYMTAB:
            return Content(section, symbols)
        if section.index == self._string_section():
            return Content(section, strings)
        if old.is_debug:
            return Content(section, b"")  # stale addresses are worse than none
        data = self.image.section_bytes(old)
        if section.kind is SectionKind.REL and self.image.sections[section.info].is_alloc:
            data = self._relocations(data)
        return Content(section, data)

    def _string_section(self) -> int:
        table = next(s for s in self.image.sections if s.kind is SectionKind.SYMTAB)
        return table.link

    def _relocations(self, data: bytes) -> bytes:
        entries = np.frombuffer(data, dtype=RAW_REL).copy()
        gone = among(entries["offset"].astype(np.int64), self._lost_places())
        entries["info"][gone] = R_386_NONE
        real = (entries["info"] & 0xFF) != 0
        entries["offset"][real] = self.placement.map(entries["offset"][real]).astype(np.uint32)
        return entries.tobytes()

    def _lost_places(self) -> np.ndarray:
        """Original places of the words that are out of line, ascending (i64)."""
        return np.array(sorted(self.out_of_line), np.int64)

    def _moved_relocations(self) -> bytes:
        """Elf32_Rel entries of the words that are out of line."""
        rows = []
        for section in self.image.sections:
            if section.kind is SectionKind.REL and self.image.sections[section.info].is_exec:
                raw = np.frombuffer(self.image.section_bytes(section), RAW_REL)
                mine = raw[among(raw["offset"].astype(np.int64), self._lost_places())]
                rows += [(self.out_of_line[int(r["offset"])], int(r["info"])) for r in mine]
        return np.array(sorted(rows), RAW_REL).tobytes()

    def _ends(self, vas: np.ndarray) -> np.ndarray:
        """Where what ends at `vas` ends now; at the end of a section, without the room after it."""
        result = self.placement.map(vas)
        for index in self.placement.changes:
            result[vas == self.image.sections[index].end_va] = self.sections[index].end_va
        return result

    def _symbols(
        self, added: Sequence[AnnotationPart], runtime: Runtime | None
    ) -> tuple[bytes, bytes]:
        """The symbol table with everything moved, and the new symbols at its end."""
        table = self.image.symbols
        entries = table.entries.copy()
        low, high = image_range(self.image)
        distance = virtual_distances(self.image)
        values = entries["value"].astype(np.int64) + distance
        linked = (entries["shndx"] > 0) & (entries["shndx"] < SHN_ABS)
        absolute = (entries["shndx"] == SHN_ABS) & (values >= low) & (values <= high)
        linked |= absolute & ~table.is_number
        new, was = self.placement.map(values), values + entries["size"]
        ends = self._ends(was) - self.placement.inserted_at(was)
        code = np.isin(entries["shndx"], list(self.placement.changes))
        sized = linked & code & (entries["size"] > 0)
        entries["value"][linked] = (new - distance)[linked].astype(np.uint32)
        entries["size"][sized] = (ends - new)[sized].astype(np.uint32)
        strings, extra = bytearray(table.strings), []
        home = 0
        for index, section in enumerate(added, start=len(self.sections)):
            home = index if section.name == NEW_CODE else home
            for name, va in (
                (section.symbol, section.va),
                (f"{section.symbol}_end", section.end_va),
            ):
                extra.append((len(strings), va, 0, GLOBAL_NOTYPE, 0, index))
                strings += name.encode() + b"\0"
        if runtime is not None:
            extra.append((len(strings), runtime.entry, 0, GLOBAL_NOTYPE, 0, home))
            strings += START_SYMBOL + b"\0"
        return entries.tobytes() + np.array(extra, dtype=SYMBOL).tobytes(), bytes(strings)


GLOBAL_NOTYPE = 0x10
"""st_info of a global label (System V ABI, chapter 4)."""


def _loose_section(index: int, name: str, data: bytes) -> Content:
    section = Section(
        index, name, SectionKind.PROGBITS, SectionFlag.NONE, 0, 0, len(data), 0, 0, 1, 0
    )
    return Content(section, data)

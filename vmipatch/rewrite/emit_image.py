# SPDX-License-Identifier: MIT
"""The file of a rewritten kernel: sections in their new places, words led on, tables of ELF."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from vmipatch.errors import MalformedImage, NotSupported
from vmipatch.image.elf import ENTRY_AT, ElfImage
from vmipatch.image.elf_write import Content, write_elf
from vmipatch.image.relocations import RAW_REL
from vmipatch.image.symbols import SHN_ABS, SYMBOL
from vmipatch.image.types import Section, SectionFlag, SectionKind, Segment, SegmentKind
from vmipatch.limits import Limit
from vmipatch.restore import empty_note
from vmipatch.rewrite.annotate import Annotations, Part
from vmipatch.rewrite.attach import Added
from vmipatch.rewrite.placement import PAGE, Placement
from vmipatch.rewrite.references import Words, image_range
from vmipatch.runtime import Runtime

CODE_ALIGN = 16

NEW_CODE = ".vmi.text"
"""Thunks and runtime."""

START_SYMBOL = b"__vmi_start"
"""Where the callers of start_kernel arrive now."""

LAST_END = 0xFF000000
"""Where a kernel must have ended: what is appended needs far less than the 16 MiB above."""

READ_ONLY = 4
"""p_flags of a segment that is only read."""


def annotation_start_va(image: ElfImage, shift_len: int) -> int:
    """The first page behind everything that the kernel reserves or relocates.

    Raises InputNotUnderstood if addresses of 32 bits end too soon behind it.
    """
    _, end_va = image_range(image)
    end_pa = max(load.pa + load.mem_len for load in image.loads)
    if max(end_va, end_pa) + shift_len > LAST_END:
        raise NotSupported(
            Limit.TOO_HIGH,
            "the kernel ends so high that no room is left behind it",
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
    trampolines: tuple[int, bytes],
    annotations: Annotations,
    manifest: bytes,
) -> bytes:
    """Put the new file together.

    `code` holds the new bytes of executable sections by index, `words` what to write over them
    and over data, `added` the code between the end of .text's and that of the room behind it, and
    `trampolines` address and bytes of what follows it.
    """
    writer = _Emitter(image, placement, code)
    writer.write_words(words)
    code_parts = [Part(NEW_CODE, "__vmi_text", added.va, added.code)]
    if trampolines[1]:
        code_parts.insert(0, Part(".vmi.trampolines", "__vmi_trampolines", *trampolines))
    return writer.finish(added, code_parts, annotations.parts, manifest)


class _Emitter:
    """The front of the new file while it grows, and the new section headers."""

    def __init__(self, image: ElfImage, placement: Placement, code: Mapping[int, bytes]) -> None:
        self.image, self.placement = image, placement
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
        shift = self.placement.shift_len if section.off >= self._cut_off else 0
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
        self, added: Added, code: Sequence[Part], parts: Sequence[Part], manifest: bytes
    ) -> bytes:
        """Append what is new and write the tables of ELF."""
        struct.pack_into("<I", self.memory, ENTRY_AT, self._entry())
        symbols, strings = self._symbols([*code, *parts], added.runtime)
        segments = self._segments()
        contents = [self._content(s, symbols, strings) for s in self.sections]
        contents += [self._code_section(len(contents) + i, part) for i, part in enumerate(code)]
        segment = self._append_segment(parts, contents)
        holder = next(c.section.index for c in contents if c.section.name == NEW_CODE)
        contents.append(self._relocation_section(len(contents), holder, added.relocations))
        contents.append(_loose_section(len(contents), ".vmi.manifest", manifest))
        contents.append(empty_note(len(contents)))
        return write_elf(self.image, bytes(self.memory), contents, [*segments, segment])

    def _entry(self) -> int:
        """Where the loader enters: Linux has a physical address there, in .init.text since 6.11."""
        entry = self.image.entry
        if self.image.section_at(entry):
            return self.placement.map.one(entry)
        holder = (s for s in self.image.loads if s.pa <= entry < s.pa + s.mem_len)
        offset = next((s.va - s.pa for s in holder), 0)
        return self.placement.map.one(entry + offset) - offset

    def _code_section(self, index: int, added: Part) -> Content:
        """A part of the room behind .text's code, inside the same segment."""
        text = self.sections[self.image.section_by_name[".text"].index]
        flags = SectionFlag.ALLOC | SectionFlag.EXEC
        off = added.va - text.va + text.off
        section = Section(
            index, added.name, SectionKind.PROGBITS, flags, added.va, off, len(added.data),
            0, 0, CODE_ALIGN, 0,
        )  # fmt: skip
        return Content(section, added.data)

    def _append_segment(self, parts: Sequence[Part], contents: list[Content]) -> Segment:
        """The annotations, as a segment of their own behind everything else in memory."""
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

    def _relocation_section(self, index: int, holder: int, entries: bytes) -> Content:
        """The relocations of .vmi.text, which is section `holder`."""
        table = next(s for s in self.image.sections if s.kind is SectionKind.SYMTAB)
        section = Section(
            index, ".rel.vmi.text", SectionKind.REL, SectionFlag.NONE, 0, 0, len(entries),
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
                # With nothing behind .text the segment ends before its last page does.
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
        real = (entries["info"] & 0xFF) != 0
        entries["offset"][real] = self.placement.map(entries["offset"][real]).astype(np.uint32)
        return entries.tobytes()

    def _ends(self, vas: np.ndarray) -> np.ndarray:
        """Where what ends at `vas` ends now; at the end of a section, without the room behind."""
        result = self.placement.map(vas)
        for index in self.placement.changes:
            result[vas == self.image.sections[index].end_va] = self.sections[index].end_va
        return result

    def _symbols(self, added: Sequence[Part], runtime: Runtime | None) -> tuple[bytes, bytes]:
        """The symbol table with everything moved, and the new symbols at its end."""
        table = self.image.symbols
        entries = table.entries.copy()
        low, high = image_range(self.image)
        values = entries["value"].astype(np.int64)
        linked = (entries["shndx"] > 0) & (entries["shndx"] < SHN_ABS)
        absolute = (entries["shndx"] == SHN_ABS) & (values >= low) & (values <= high)
        linked |= absolute & ~table.is_number
        new, was = self.placement.map(values), values + entries["size"]
        ends = self._ends(was) - self.placement.inserted_at(was)
        code = np.isin(entries["shndx"], list(self.placement.changes))
        sized = linked & code & (entries["size"] > 0)
        entries["value"][linked] = new[linked].astype(np.uint32)
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

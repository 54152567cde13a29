# SPDX-License-Identifier: MIT
"""The file of a rewritten kernel: sections in their new places, words led on, tables of ELF."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from vmipatch.errors import MalformedImage
from vmipatch.image.elf import ElfImage
from vmipatch.image.elf_write import Content, write_elf
from vmipatch.image.relocations import RAW_REL
from vmipatch.image.symbols import SHN_ABS, SYMBOL
from vmipatch.image.types import Section, SectionFlag, SectionKind, Segment, SegmentKind
from vmipatch.rewrite.annotate import Annotations
from vmipatch.rewrite.placement import PAGE, Placement
from vmipatch.rewrite.references import Words, image_range

READ_ONLY = 4
"""p_flags of a segment that is only read."""


@dataclass(frozen=True, slots=True)
class NewSection:
    """A section that the rewriter adds, with symbols at its start and its end."""

    name: str
    va: int
    data: bytes
    flags: SectionFlag
    symbol: str


def annotation_start_va(image: ElfImage, shift_len: int) -> int:
    """The first page behind everything that the kernel reserves or relocates."""
    _, end_va = image_range(image)
    return -(-(end_va + shift_len) // PAGE) * PAGE


def emit_image(
    image: ElfImage,
    placement: Placement,
    code: Mapping[int, bytes],
    words: Words,
    room: bytes,
    annotations: Annotations,
    manifest: bytes,
) -> bytes:
    """Put the new file together.

    `code` holds the new bytes of executable sections by index, `words` what to write over them
    and over data, `room` the bytes between the end of .text's code and the end of its last page.
    """
    writer = _Emitter(image, placement, code)
    added = [
        NewSection(".vmi.text", placement.room_end_va - len(room), room,
                   SectionFlag.ALLOC | SectionFlag.EXEC, "__vmi_text"),
        NewSection(".vmi.annotation", annotations.start_va, annotations.records,
                   SectionFlag.ALLOC, "__vmi_annotation"),
        NewSection(".vmi.annotation.init", annotations.init_va, annotations.init_records,
                   SectionFlag.ALLOC, "__vmi_annotation_init"),
        NewSection(".vmi.translation", annotations.translation_va, annotations.translations,
                   SectionFlag.ALLOC, "__vmi_translation"),
    ]  # fmt: skip
    writer.write_words(words)
    return writer.finish(added, manifest)


class _Emitter:
    """The front of the new file while it grows, and the new section headers."""

    def __init__(self, image: ElfImage, placement: Placement, code: Mapping[int, bytes]) -> None:
        self.image, self.placement = image, placement
        self._cut_off = self._text_page_end_off()
        self.sections = [self._moved(section, code) for section in image.sections]
        loaded = max(s.off + s.file_len for s in image.loads)
        front = image.data[: self._cut_off] + bytes(placement.shift_len)
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
            return replace(section, off=section.off + shift)
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
            raise MalformedImage("a word to write has no byte in the file", place=f"{lost:#x}")
        return result

    def finish(self, added: list[NewSection], manifest: bytes) -> bytes:
        """Append what is new and write the tables of ELF."""
        symbols, strings = self._symbols(added)
        segments = self._segments()
        segment, new_sections = self._place_added(added)
        contents = [self._content(s, symbols, strings) for s in self.sections]
        contents += new_sections
        contents.append(_loose_section(len(contents), ".vmi.manifest", manifest))
        return write_elf(self.image, bytes(self.memory), contents, [*segments, segment])

    def _place_added(self, added: list[NewSection]) -> tuple[Segment, list[Content]]:
        """Append the annotations as a segment of their own; the room is inside of .text's."""
        text = self.sections[self.image.section_by_name[".text"].index]
        outside = [s for s in added if not s.flags & SectionFlag.EXEC]
        start_va, end_va = outside[0].va, outside[-1].va + len(outside[-1].data)
        self.memory += bytes(-len(self.memory) % PAGE)
        start_off = len(self.memory)
        self.memory += b"".join(s.data for s in outside)
        contents = []
        for index, new in enumerate(added, start=len(self.sections)):
            base = (text.va, text.off) if new.flags & SectionFlag.EXEC else (start_va, start_off)
            align = 16 if new.flags & SectionFlag.EXEC else 1
            section = Section(
                index, new.name, SectionKind.PROGBITS, new.flags, new.va,
                new.va - base[0] + base[1], len(new.data), 0, 0, align, 0,
            )  # fmt: skip
            contents.append(Content(section, new.data))
        first = next(self.image.loads)
        length = end_va - start_va
        segment = Segment(
            SegmentKind.LOAD, start_off, start_va, start_va - first.va + first.pa,
            length, length, READ_ONLY, PAGE,
        )  # fmt: skip
        return segment, contents

    def _segments(self) -> list[Segment]:
        """The program headers of the input, moved; the one with .text grows."""
        shift, result = self.placement.shift_len, []
        for s in self.image.segments:
            if s.off >= self._cut_off:
                result.append(replace(s, off=s.off + shift, va=s.va + shift, pa=s.pa + shift))
            elif s.off + s.file_len >= self._cut_off:
                result.append(replace(s, file_len=s.file_len + shift, mem_len=s.mem_len + shift))
            else:
                result.append(s)
        return result

    def _content(self, section: Section, symbols: bytes, strings: bytes) -> Content:
        old = self.image.sections[section.index]
        if section.is_alloc:
            size = section.size if section.has_bytes else 0
            return Content(section, bytes(self.memory[section.off : section.off + size]))
        if section.kind is SectionKind.SYMTAB:
            return Content(section, symbols)
        if section.index == self._string_section():
            return Content(section, strings)
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

    def _symbols(self, added: list[NewSection]) -> tuple[bytes, bytes]:
        """The symbol table with everything moved, and the new symbols at its end."""
        table = self.image.symbols
        entries = table.entries.copy()
        low, high = image_range(self.image)
        values = entries["value"].astype(np.int64)
        linked = (entries["shndx"] > 0) & (entries["shndx"] < SHN_ABS)
        linked |= (entries["shndx"] == SHN_ABS) & (values >= low) & (values <= high)
        new, ends = self.placement.map(values), self.placement.map(values + entries["size"])
        code = np.isin(entries["shndx"], list(self.placement.changes))
        sized = linked & code & (entries["size"] > 0)
        entries["value"][linked] = new[linked].astype(np.uint32)
        entries["size"][sized] = (ends - new)[sized].astype(np.uint32)
        strings, extra = bytearray(table.strings), []
        for index, section in enumerate(added, start=len(self.sections)):
            for name, va in (
                (section.symbol, section.va),
                (f"{section.symbol}_end", section.va + len(section.data)),
            ):
                extra.append((len(strings), va, 0, GLOBAL_NOTYPE, 0, index))
                strings += name.encode() + b"\0"
        return entries.tobytes() + np.array(extra, dtype=SYMBOL).tobytes(), bytes(strings)


GLOBAL_NOTYPE = 0x10
"""st_info of a global label (System V ABI, chapter 4)."""


def _loose_section(index: int, name: str, data: bytes) -> Content:
    section = Section(
        index, name, SectionKind.PROGBITS, SectionFlag.NONE, 0, 0, len(data), 0, 0, 1, 0
    )
    return Content(section, data)

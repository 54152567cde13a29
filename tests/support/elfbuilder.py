# SPDX-License-Identifier: MIT
"""How a test gets a small i386 ELF file with just the sections, symbols and relocations it needs.

    builder = ElfBuilder()
    text = builder.section(".text", 0xC1000000, code, TEXT)
    builder.symbol("start_kernel", text.va + 16, size=5, kind=STT_FUNC)
    builder.relocation(text.va + 17, R_386_PC32, "start_kernel")
    image = builder.image()

Written from the System V ABI (chapter 4 and the i386 supplement), not with the reader under test.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from vmipatch.image.elf import ElfImage
from vmipatch.image.symbols import SHN_ABS, STT_NOTYPE
from vmipatch.image.types import SectionFlag, SectionKind

RODATA = SectionFlag.ALLOC
DATA = SectionFlag.ALLOC | SectionFlag.WRITE
TEXT = SectionFlag.ALLOC | SectionFlag.EXEC

STB_LOCAL, STB_GLOBAL = 0, 1
PAGE_LEN = 0x1000
PAGE_OFFSET = 0xC0000000

FILE_HEADER = struct.Struct("<16sHHIIIIIHHHHHH")
PROGRAM_HEADER = struct.Struct("<8I")
SECTION_HEADER = struct.Struct("<10I")
SYMBOL = struct.Struct("<IIIBBH")
RELOCATION = struct.Struct("<II")
ET_EXEC, EM_386, PT_LOAD, PF_X, PF_W, PF_R = 2, 3, 1, 1, 2, 4


@dataclass(frozen=True, slots=True)
class BuiltSection:
    """One section as it will be in the file."""

    name: str
    va: int
    data: bytes
    flags: SectionFlag
    kind: SectionKind
    size: int
    align: int
    entry_len: int = 0
    link: int = 0
    info: int = 0

    @property
    def end_va(self) -> int:
        """First address after the section."""
        return self.va + self.size


@dataclass(frozen=True, slots=True)
class BuiltSymbol:
    """One symbol; its section is looked up by address, unless it is absolute."""

    name: str
    va: int
    size: int
    kind: int
    binding: int
    absolute: bool = False


@dataclass(slots=True)
class ElfBuilder:
    """Collects what the file shall hold; `build` lays it out."""

    entry: int = 0x1000000
    physical_offset: int = PAGE_OFFSET
    """Linked minus physical address of every segment."""
    sections: list[BuiltSection] = field(default_factory=list)
    symbols: list[BuiltSymbol] = field(default_factory=list)
    relocations: list[tuple[int, int, str]] = field(default_factory=list)

    def section(
        self, name: str, va: int, data: bytes, flags: SectionFlag = RODATA, *, align: int = 4
    ) -> BuiltSection:
        """Add a section with bytes."""
        return self._add(
            BuiltSection(name, va, data, flags, SectionKind.PROGBITS, len(data), align)
        )

    def note(self, name: str, va: int, data: bytes) -> BuiltSection:
        """Add a section of notes."""
        return self._add(BuiltSection(name, va, data, RODATA, SectionKind.NOTE, len(data), 4))

    def nobits(self, name: str, va: int, size: int) -> BuiltSection:
        """Add a writable section that has memory but no bytes, such as .bss."""
        return self._add(BuiltSection(name, va, b"", DATA, SectionKind.NOBITS, size, 4))

    def _add(self, section: BuiltSection) -> BuiltSection:
        self.sections.append(section)
        return section

    def symbol(
        self,
        name: str,
        va: int,
        *,
        size: int = 0,
        kind: int = STT_NOTYPE,
        binding: int = STB_GLOBAL,
        absolute: bool = False,
    ) -> None:
        """Add a symbol: in the section that holds `va` (or ends there), else absolute."""
        self.symbols.append(BuiltSymbol(name, va, size, kind, binding, absolute))

    def bounds(self, start: str, stop: str, section: BuiltSection) -> None:
        """Add the two symbols by which a linker script marks the extent of a table."""
        self.symbol(start, section.va)
        self.symbol(stop, section.end_va)

    def relocation(self, va: int, kind: int, symbol: str) -> None:
        """Add an R_386_* relocation of the word at `va`. The word itself is the caller's."""
        self.relocations.append((va, kind, symbol))

    def image(self, name: str = "<built>") -> ElfImage:
        """The file, read."""
        return ElfImage.parse(self.build(), name)

    def build(self) -> bytes:
        """The file's bytes: the same for the same calls."""
        sections = [BuiltSection("", 0, b"", SectionFlag.NONE, SectionKind.NULL, 0, 0)]
        sections += sorted(self.sections, key=lambda s: s.va)
        symbols = sorted(self.symbols, key=lambda s: s.binding)
        sections += self._relocation_sections(sections, symbols)
        if symbols:
            sections += self._symbol_sections(sections, symbols)
        segments = _segments(sections)
        headers_len = FILE_HEADER.size + PROGRAM_HEADER.size * len(segments)
        names, name_at = _strings([s.name for s in sections] + [".shstrtab"])
        sections.append(_plain(".shstrtab", names, SectionKind.STRTAB))
        offsets, table_off = _layout(sections, headers_len)
        out = bytearray(table_off + SECTION_HEADER.size * len(sections))
        self._file_header(out, len(segments), table_off, len(sections))
        for index, segment in enumerate(segments):
            at = FILE_HEADER.size + index * PROGRAM_HEADER.size
            PROGRAM_HEADER.pack_into(out, at, *self._program_header(segment, sections, offsets))
        for index, (section, off) in enumerate(zip(sections, offsets, strict=True)):
            out[off : off + len(section.data)] = section.data
            header = _section_header(section, name_at[section.name], off)
            SECTION_HEADER.pack_into(out, table_off + index * SECTION_HEADER.size, *header)
        return bytes(out)

    def _file_header(self, out: bytearray, segments: int, table_off: int, sections: int) -> None:
        FILE_HEADER.pack_into(
            out,
            0,
            b"\x7fELF\x01\x01\x01".ljust(16, b"\0"),
            ET_EXEC,
            EM_386,
            1,
            self.entry,
            FILE_HEADER.size,
            table_off,
            0,
            FILE_HEADER.size,
            PROGRAM_HEADER.size,
            segments,
            SECTION_HEADER.size,
            sections,
            sections - 1,
        )

    def _program_header(
        self, segment: list[int], sections: list[BuiltSection], offsets: list[int]
    ) -> tuple[int, ...]:
        first, last = sections[segment[0]], sections[segment[-1]]
        stored = [i for i in segment if sections[i].kind is not SectionKind.NOBITS]
        file_len = sections[stored[-1]].end_va - first.va if stored else 0
        flags = PF_R
        for index in segment:
            flags |= PF_X if sections[index].flags & SectionFlag.EXEC else 0
            flags |= PF_W if sections[index].flags & SectionFlag.WRITE else 0
        pa = (first.va - self.physical_offset) & 0xFFFFFFFF
        mem_len = last.end_va - first.va
        return PT_LOAD, offsets[segment[0]], first.va, pa, file_len, mem_len, flags, PAGE_LEN

    def _relocation_sections(
        self, sections: list[BuiltSection], symbols: list[BuiltSymbol]
    ) -> list[BuiltSection]:
        """One .rel section for each section that has relocations, as --emit-relocs leaves them."""
        number = {symbol.name: index + 1 for index, symbol in enumerate(symbols)}
        touched = [
            i for i, s in enumerate(sections) if any(_holds(s, r[0]) for r in self.relocations)
        ]
        result = []
        for index in touched:
            target = sections[index]
            data = b"".join(
                RELOCATION.pack(va, number[name] << 8 | kind)
                for va, kind, name in self.relocations
                if _holds(target, va)
            )
            link = len(sections) + len(touched)
            result.append(
                BuiltSection(
                    f".rel{target.name}",
                    0,
                    data,
                    SectionFlag.NONE,
                    SectionKind.REL,
                    len(data),
                    4,
                    RELOCATION.size,
                    link,
                    index,
                )
            )
        return result

    def _symbol_sections(
        self, sections: list[BuiltSection], symbols: list[BuiltSymbol]
    ) -> list[BuiltSection]:
        names, name_at = _strings([s.name for s in symbols])
        data = bytes(SYMBOL.size) + b"".join(
            SYMBOL.pack(
                name_at[s.name],
                s.va,
                s.size,
                s.binding << 4 | s.kind,
                0,
                SHN_ABS if s.absolute else _section_index(sections, s.va),
            )
            for s in symbols
        )
        local = 1 + sum(s.binding == STB_LOCAL for s in symbols)
        symtab = BuiltSection(
            ".symtab",
            0,
            data,
            SectionFlag.NONE,
            SectionKind.SYMTAB,
            len(data),
            4,
            SYMBOL.size,
            len(sections) + 1,
            local,
        )
        return [symtab, _plain(".strtab", names, SectionKind.STRTAB)]


def _plain(name: str, data: bytes, kind: SectionKind) -> BuiltSection:
    return BuiltSection(name, 0, data, SectionFlag.NONE, kind, len(data), 1)


def _holds(section: BuiltSection, va: int) -> bool:
    return section.va <= va < section.end_va


def _section_index(sections: list[BuiltSection], va: int) -> int:
    """The section that holds `va`, else one that ends there, else SHN_ABS."""
    for index, section in enumerate(sections):
        if _holds(section, va):
            return index
    ending = (i for i, s in enumerate(sections) if s.flags & SectionFlag.ALLOC and s.end_va == va)
    return next(ending, SHN_ABS)


def _strings(names: list[str]) -> tuple[bytes, dict[str, int]]:
    """A string table and where each name is in it."""
    table = bytearray(b"\0")
    name_at = {"": 0}
    for name in names:
        if name not in name_at:
            name_at[name] = len(table)
            table += name.encode() + b"\0"
    return bytes(table), name_at


def _segments(sections: list[BuiltSection]) -> list[list[int]]:
    """Section indices of each PT_LOAD: neighbours of equal rights, bytes before memory only."""
    result: list[list[int]] = []
    for index, section in enumerate(sections):
        if not section.flags & SectionFlag.ALLOC or not section.size:
            continue
        if result:
            last = sections[result[-1][-1]]
            grows = not (last.kind is SectionKind.NOBITS and section.kind is not SectionKind.NOBITS)
            if grows and last.flags == section.flags and section.va - last.end_va < PAGE_LEN:
                result[-1].append(index)
                continue
        result.append([index])
    return result


def _layout(sections: list[BuiltSection], start_off: int) -> tuple[list[int], int]:
    """File offset of each section, and of the section headers after them all.

    Offsets of allocated sections are congruent to their addresses, page by page, and neighbours
    keep their distance: what one segment holds is one piece of the file.
    """
    offsets = [0]
    at = start_off
    previous: BuiltSection | None = None
    for section in sections[1:]:
        if section.flags & SectionFlag.ALLOC:
            near = previous is not None and 0 <= section.va - previous.end_va < PAGE_LEN
            at += section.va - previous.end_va if near and previous else 0
            at += 0 if near else (section.va - at) % PAGE_LEN
            previous = section
        else:
            at += -at % max(section.align, 1)
        offsets.append(at)
        at += section.size if section.flags & SectionFlag.ALLOC else len(section.data)
    return offsets, at + -at % 4


def _section_header(section: BuiltSection, name: int, off: int) -> tuple[int, ...]:
    return (
        name,
        int(section.kind),
        int(section.flags),
        section.va,
        off,
        section.size,
        section.link,
        section.info,
        section.align,
        section.entry_len,
    )

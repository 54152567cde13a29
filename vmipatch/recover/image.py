# SPDX-License-Identifier: MIT
"""A stripped kernel as the vmlinux it was: with symbols, relocations, and a list of doubts.

Nothing in memory changes. What is added are the tables of ELF that everybody else reads, and a
border in .text, where padding can give room for new code.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vmipatch.errors import NotSupported
from vmipatch.image.ascending import distinct
from vmipatch.image.consistency import require_loaded_allocated
from vmipatch.image.elf import ElfImage
from vmipatch.image.elf_write import Content, write_elf
from vmipatch.image.linked import LinkedKernel, ReferencesFrom
from vmipatch.image.relocations import RAW_REL
from vmipatch.image.symbols import SHN_ABS, STT_FUNC, STT_NOTYPE, STT_SECTION, SYMBOL
from vmipatch.image.types import Section, SectionFlag, SectionKind
from vmipatch.isa.decode import InstructionStream, Shape
from vmipatch.isa.inner import inner_labels
from vmipatch.limits import Limit
from vmipatch.recover.bases import bases_of
from vmipatch.recover.code import RecoveredCode
from vmipatch.recover.kallsyms import Kallsyms, find_kallsyms
from vmipatch.recover.references import References, extents, find_references
from vmipatch.recover.section_symbols import SectionSymbols
from vmipatch.recover.streams import streams_of
from vmipatch.recover.tables import I64, Known, find_bounds, stub_sizes
from vmipatch.tables.find import find_all
from vmipatch.tables.locate import Range

TEXT, REST = ".text", ".text.behind"
"""Code after the border is a section of its own."""
GLOBAL = 1
PAGE = 0x1000


@dataclass(frozen=True, slots=True)
class Recovered:
    """A stripped kernel with what could be recovered."""

    image: ElfImage
    """The same kernel with .symtab and .rel sections."""
    references: References
    source: ElfImage
    """The kernel as it was given."""

    @property
    def fixed(self) -> tuple[tuple[int, int], ...]:
        """Ranges of code that must stay where they are."""
        return self.references.fixed

    @property
    def kernel(self) -> LinkedKernel:
        """The kernel as a rewriter needs it."""
        return LinkedKernel(self.image, self.source, ReferencesFrom.RECOVERED, self.fixed)


def recover(image: ElfImage, relocs: Sequence[int] | None) -> Recovered:
    """Find symbols, tables and references of `image`, which has neither .symtab nor .rel.

    `relocs` are the addresses of its relocation list. Raises InputNotUnderstood if there is no
    list, no .text or no kallsyms; MalformedImage and MalformedTable.
    """
    listed = listed_places(image, relocs)
    kallsyms = find_kallsyms(image)
    if kallsyms is None:
        raise NotSupported(
            Limit.NO_SYMBOLS,
            "the kernel has no symbols of its own (kallsyms with tokens), and only they name its "
            "functions",
            file=image.name,
        )
    return _Recovery(image, listed, kallsyms).run()


def with_own_symbols(image: ElfImage) -> ElfImage:
    """A stripped kernel with the symbols that it holds itself; as it is if it holds none.

    Raises MalformedImage.
    """
    try:
        kallsyms = find_kallsyms(image)
    except NotSupported:
        kallsyms = None
    if kallsyms is None:
        return image
    executable = image.executable_sections
    rows = []
    for symbol in kallsyms.symbols:
        is_code = any(symbol.va in section for section in executable)
        kind = STT_FUNC if is_code else STT_NOTYPE
        rows.append((symbol.va, symbol.name, 0, kind, symbol.kind.isupper()))
    return _with_tables_of_elf(image, rows, None, None)


def listed_places(image: ElfImage, relocs: Sequence[int] | None) -> I64:
    """The addresses of the relocation list, ascending.

    Raises InputNotUnderstood if the kernel has no such list or no .text, MalformedImage if its
    segments load what no section allocates.
    """
    if not relocs:
        raise NotSupported(
            Limit.NO_RELOCATIONS,
            "the kernel has no relocations and no relocation list: any word might be an address",
            file=image.name,
        )
    if image.section_by_name.get(TEXT) not in image.executable_sections:
        raise NotSupported(
            Limit.NO_SECTIONS,
            "the kernel has no .text section",
            file=image.name,
            place="section headers",
        )
    require_loaded_allocated(image.sections, image.segments, image.name)
    return distinct(np.array(relocs, np.int64))


class _Recovery:
    """The facts known so far."""

    def __init__(self, image: ElfImage, relocs: I64, kallsyms: Kallsyms) -> None:
        self.image, self.relocs, self.kallsyms = image, relocs, kallsyms
        sections = image.executable_sections
        code_vas = [s.va for s in kallsyms.symbols if any(s.va in section for section in sections)]
        words = frozenset(relocs.tolist())
        inner = [
            va
            for section in sections
            for va in inner_labels(
                image.section_bytes(section), section.va, code_vas, frozenset(code_vas), words
            )
        ]
        self.inner = frozenset(inner)
        """Addresses inside of instructions that kallsyms names."""
        self.functions = distinct(
            np.array([va for va in code_vas if va not in self.inner], np.int64)
        )
        extent = Range(kallsyms.start_va, kallsyms.end_va)
        self.known = Known(image, relocs, self.functions, extent)
        addresses = {symbol.name: symbol.va for symbol in kallsyms.symbols}
        self.addresses = addresses
        self.stub_sizes = stub_sizes(self.known, addresses)
        self.bounds = find_bounds(self.known)

    def run(self) -> Recovered:
        symbols = self._symbols()
        plain = _with_tables_of_elf(self.image, symbols, None, None)
        tables = find_all(plain)
        streams = streams_of(plain, tables, self.functions)
        code = RecoveredCode(streams, self.functions)
        bases = bases_of(plain, tables, self.addresses.get, self.stub_sizes)
        understood = [*extents(tables), (self.kallsyms.start_va, self.kallsyms.end_va)]
        references = find_references(plain, code, self.relocs, bases, understood)
        border = border_of(streams, code, references.fixed, plain)
        image = _with_tables_of_elf(self.image, symbols, references, border)
        return Recovered(image, references, self.image)

    def _symbols(self) -> list[tuple[int, str, int, int, bool]]:
        """Address, name, size, kind and whether it is global, of every symbol but sections."""
        result = []
        at = np.searchsorted(self.functions, [s.va for s in self.kallsyms.symbols], "right")
        ends = np.append(self.functions, 0xFFFFFFFF)[at].tolist()
        names = set()
        for symbol, end in zip(self.kallsyms.symbols, ends, strict=True):
            section = self.image.section_at(symbol.va)
            is_code = section is not None and section.is_exec
            size = min(end, section.end_va) - symbol.va if section is not None and is_code else 0
            size = self.stub_sizes.get(symbol.name, size)
            kind = STT_FUNC if is_code else STT_NOTYPE
            if symbol.va in self.inner:
                kind, size = STT_NOTYPE, 0
            result.append((symbol.va, symbol.name, size, kind, symbol.kind.isupper()))
            names.add(symbol.name)
        for name, va in [*self.kallsyms.parts, *self.bounds.items()]:
            if name not in names:
                result.append((va, name, 0, STT_NOTYPE, True))
        return result


def border_of(
    streams: list[InstructionStream],
    code: RecoveredCode,
    fixed: Sequence[tuple[int, int]],
    image: ElfImage,
) -> int | None:
    """Start of the function in front of which padding gives most room; None: the end of .text."""
    text = image.section_by_name[TEXT]
    stream = next(s for s in streams if s.va == text.va)
    filler = (stream.shapes == Shape.NOP) | (stream.shapes == Shape.INT3)
    total = np.concatenate(([0], np.cumsum(np.where(filler, stream.lens, 0), dtype=np.int64)))
    starts = np.append(stream.starts.astype(np.int64), stream.end_va)
    inside = [(start, end) for start, end in fixed if text.va <= start < text.end_va]
    begins = [text.va, *(end for _, end in inside)]
    stops = [
        *(int(code.function_of(np.array([start], np.int64))[0]) for start, _ in inside),
        text.end_va,
    ]
    at = np.searchsorted(starts, begins), np.searchsorted(starts, stops)
    room = np.maximum(total[at[1]] - total[at[0]], 0)
    room[-1] += -text.end_va % PAGE
    best = int(np.argmax(room))
    return None if best == len(stops) - 1 or not room[best] else stops[best]


def _with_tables_of_elf(
    image: ElfImage,
    symbols: Iterable[tuple[int, str, int, int, bool]],
    references: References | None,
    border: int | None,
) -> ElfImage:
    """`image` with symbols, relocations and a border in .text."""
    sections = with_border(image, border)
    contents = [Content(s, bytes_of(image, s)) for s in sections]
    table = _SymbolTable(sections)
    for va, name, size, kind, is_global in sorted(symbols, key=lambda s: s[4]):
        table.add(va, name, size, kind, is_global)
    symtab_at = len(sections)
    contents.append(
        loose(
            symtab_at, ".symtab", SectionKind.SYMTAB, table.bytes(),
            link=symtab_at + 1, info=table.locals, entry_len=SYMBOL.itemsize,
        )
    )  # fmt: skip
    contents.append(loose(symtab_at + 1, ".strtab", SectionKind.STRTAB, bytes(table.strings)))
    if references is not None:
        for section in sections:
            entries = table.relocations(section, references)
            if section.is_alloc and (len(entries) or section.name == TEXT):
                contents.append(
                    loose(len(contents), f".rel{section.name}", SectionKind.REL, entries,
                           link=symtab_at, info=section.index, entry_len=RAW_REL.itemsize)
                )  # fmt: skip
    loaded = max(s.off + s.file_len for s in image.loads)
    data = write_elf(image, image.data[:loaded], contents, image.segments)
    return ElfImage.parse(data, image.name)


def with_border(image: ElfImage, border: int | None) -> list[Section]:
    """The sections, .text cut in two at `border`; what lies after it is the last."""
    sections = list(image.sections)
    if border is not None:
        text = image.section_by_name[TEXT]
        sections[text.index] = replace(text, size=border - text.va)
        sections.append(
            replace(
                text, index=len(sections), name=REST, va=border, off=text.off + border - text.va,
                size=text.end_va - border, align=1,
            )
        )  # fmt: skip
    return sections


def bytes_of(image: ElfImage, section: Section) -> bytes:
    """The bytes in the file of a section that may be a part of one."""
    if not section.has_bytes:
        return b""
    return image.data[section.off : section.off + section.size]


def loose(
    index: int,
    name: str,
    kind: SectionKind,
    data: bytes,
    *,
    link: int = 0,
    info: int = 0,
    entry_len: int = 0,
) -> Content:
    """A new section that is not loaded."""
    section = Section(
        index, name, kind, SectionFlag.NONE, 0, 0, len(data), link, info, 4, entry_len
    )
    return Content(section, data)


class _SymbolTable(SectionSymbols):
    """A .symtab under construction; it begins with one symbol for each section."""

    def __init__(self, sections: Sequence[Section]) -> None:
        super().__init__(sections)
        self.strings = bytearray(b"\0")
        self._rows: list[tuple[int, int, int, int, int, int]] = [(0, 0, 0, 0, 0, 0)]
        self.locals = 1
        for section in self.memory:
            self.of_section[section.index] = len(self._rows)
            self._rows.append((0, section.va, 0, STT_SECTION, 0, section.index))
            self.locals += 1

    def add(self, va: int, name: str, size: int, kind: int, is_global: bool) -> None:
        """Add one symbol; local ones come first."""
        home = self.section_of(va)
        self.of_name[name] = len(self._rows)
        index = SHN_ABS if home is None else home.index
        self._rows.append((len(self.strings), va, size, is_global * GLOBAL << 4 | kind, 0, index))
        self.strings += name.encode("latin-1") + b"\0"
        self.locals += not is_global

    def bytes(self) -> bytes:
        """The table as stored."""
        return np.array(self._rows, dtype=SYMBOL).tobytes()

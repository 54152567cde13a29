# SPDX-License-Identifier: MIT
"""A kernel with symbols and without relocations, completed by the relocation list of its bzImage.

Since Linux 6.12 the build takes the relocations out of vmlinux once it has made the list of them
(arch/x86/Makefile.postlink, arch/x86/boot/compressed/vmlinux.relocs). The list names every absolute
word; what is relative is found as in a kernel alone, but by true symbols: tables by their bounds,
and every function by its name.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vmipatch.errors import NotSupported
from vmipatch.image.ascending import distinct
from vmipatch.image.elf import ElfImage
from vmipatch.image.elf_write import Content, write_elf
from vmipatch.image.symbols import STT_FILE, STT_OBJECT, STT_SECTION, SYMBOL
from vmipatch.image.types import Section, SectionKind
from vmipatch.limits import Limit
from vmipatch.recover.bases import bases_of
from vmipatch.recover.code import RecoveredCode
from vmipatch.recover.image import (
    GLOBAL,
    TEXT,
    Recovered,
    border_of,
    bytes_of,
    listed_places,
    loose,
    with_border,
)
from vmipatch.recover.kallsyms import find_kallsyms
from vmipatch.recover.references import References, extents, find_references
from vmipatch.recover.section_symbols import SectionSymbols
from vmipatch.recover.streams import streams_of
from vmipatch.recover.tables import I64, STUBS
from vmipatch.tables.find import find_all


def complete(image: ElfImage, relocs: Sequence[int] | None) -> Recovered:
    """Find the references of `image`, which has symbols and no relocations.

    `relocs` are the addresses of its relocation list. Raises InputNotUnderstood if there is no
    list, no .text or no symbol, MalformedImage and MalformedTable.
    """
    listed = listed_places(image, relocs)
    if not len(image.symbols):
        raise NotSupported(
            Limit.NO_SYMBOLS,
            "the kernel has no symbols",
            file=image.name,
            place=".symtab",
        )
    references, border = _references(image, listed)
    return Recovered(_with_relocations(image, references, border), references, image)


def _references(image: ElfImage, relocs: I64) -> tuple[References, int | None]:
    """The words of the list and their doubts, and where .text is cut in two."""
    functions = _functions(image)
    tables = find_all(image)
    streams = streams_of(image, tables, functions)
    address = image.symbols.address
    stubs = [name for _, name in STUBS if address(name) is not None]
    bases = bases_of(image, tables, address, stubs)
    understood = [*extents(tables), *_objects(image)]
    if kallsyms := find_kallsyms(image):
        understood.append((kallsyms.start_va, kallsyms.end_va))
    code = RecoveredCode(streams, functions)
    references = find_references(image, code, relocs, bases, understood)
    return references, border_of(streams, code, references.fixed, image)


def _functions(image: ElfImage) -> I64:
    """The addresses of functions and labels in code, ascending."""
    entries = image.symbols.entries
    code = [section.index for section in image.executable_sections]
    kind = entries["info"] & 15
    named = np.isin(entries["shndx"], code) & (kind != STT_SECTION) & (kind != STT_FILE)
    named &= ~image.symbols.is_local_label
    return distinct(entries["value"][named].astype(np.int64))


def _objects(image: ElfImage) -> list[tuple[int, int]]:
    """Ranges of variables of C, which hold no distances.

    Compilers make none for i386: of 50,000 R_386_PC32 words in data of Linux 6.1 and 7.2 (gcc and
    clang, four configurations) each lies outside of every object. They are made by assembly.
    """
    entries = image.symbols.entries
    rows = entries[((entries["info"] & 15) == STT_OBJECT) & (entries["size"] > 0)]
    starts = rows["value"].astype(np.int64)
    return list(zip(starts.tolist(), (starts + rows["size"]).tolist(), strict=True))


def _with_relocations(image: ElfImage, references: References, border: int | None) -> ElfImage:
    """`image` with sections of relocations after the others, and a border in .text."""
    sections = with_border(image, border)
    table = _Symbols(image, sections, border)
    symtab = next(s for s in sections if s.kind is SectionKind.SYMTAB)
    contents = [
        Content(s, table.rows.tobytes() if s is symtab else bytes_of(image, s)) for s in sections
    ]
    for section in sections:
        rows = table.relocations(section, references) if section.is_alloc else b""
        if rows or section.name == TEXT:
            contents.append(
                loose(
                    len(contents), f".rel{section.name}", SectionKind.REL, rows,
                    link=symtab.index, info=section.index, entry_len=8,
                )
            )  # fmt: skip
    loaded = max(s.off + s.file_len for s in image.loads)
    return ElfImage.parse(
        write_elf(image, image.data[:loaded], contents, image.segments), image.name
    )


class _Symbols(SectionSymbols):
    """The symbol table as it was, with a symbol for each section at its end where one lacks."""

    def __init__(self, image: ElfImage, sections: Sequence[Section], border: int | None) -> None:
        super().__init__(sections)
        self.rows = image.symbols.entries.copy()
        if border is not None:
            text = image.section_by_name[TEXT]
            following = (self.rows["shndx"] == text.index) & (self.rows["value"] >= border)
            self.rows["shndx"][following] = sections[-1].index
        self.of_name = {symbol.name: symbol.index for symbol in image.symbols if symbol.name}
        named = np.flatnonzero((self.rows["info"] & 15) == STT_SECTION).tolist()
        self.of_section = {int(self.rows["shndx"][row]): row for row in named}
        missing = [s for s in self.memory if s.index not in self.of_section]
        added = np.zeros(len(missing), SYMBOL)
        added["value"], added["shndx"] = [s.va for s in missing], [s.index for s in missing]
        added["info"] = GLOBAL << 4 | STT_SECTION  # local symbols would have to stand first
        self.of_section |= {s.index: len(self.rows) + i for i, s in enumerate(missing)}
        self.rows = np.concatenate([self.rows, added])

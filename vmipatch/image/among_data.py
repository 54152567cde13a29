# SPDX-License-Identifier: MIT
"""Which sections hold data, though their flags say that they hold instructions?

One function that a source file puts among data by mistake (`acpi_os_initialize` is `__initdata` in
drivers/acpi/osl.c up to Linux 2.6.32) makes the linker flag all of .init.data as executable.
Symbols tell: what they name there is data, all but that function.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vmipatch.image.symbols import STT_FUNC, STT_OBJECT, SymbolTable
from vmipatch.image.types import Section, SectionFlag

if TYPE_CHECKING:
    from vmipatch.image.elf import ElfImage


def may_hold_data(section: Section) -> bool:
    """Whether the section is flagged as executable and as writable, which code is not."""
    return section.is_alloc and section.is_exec and bool(section.flags & SectionFlag.WRITE)


def with_data_known(sections: Sequence[Section], symbols: SymbolTable) -> tuple[Section, ...]:
    """The sections, marked where objects take more bytes of one that `may_hold_data` than code."""
    entries = symbols.entries
    kinds = entries["info"] & 15

    def bytes_of(section: Section, kind: int) -> int:
        mine = (entries["shndx"] == section.index) & (kinds == kind)
        return int(entries["size"][mine].sum(dtype=np.int64))

    return tuple(
        replace(s, holds_data=bytes_of(s, STT_OBJECT) > bytes_of(s, STT_FUNC))
        if may_hold_data(s)
        else s
        for s in sections
    )


def functions_among_data(image: ElfImage) -> Iterator[tuple[int, bytes]]:
    """Address and bytes of each function in a section that is flagged executable and holds data."""
    entries = image.symbols.entries
    for section in image.sections:
        if not section.holds_data:
            continue
        mine = (entries["shndx"] == section.index) & (entries["info"] & 15 == STT_FUNC)
        for va, size in entries[["value", "size"]][mine].tolist():
            if section.va <= va and va + size <= section.end_va:
                yield va, image.read(va, size)

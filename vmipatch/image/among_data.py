# SPDX-License-Identifier: MIT
"""Which sections hold data, though their flags say that they hold instructions?

One function that a source file puts among data by mistake (include/acpi/acpiosxf.h of Linux 2.6.24
to 2.6.35 declares acpi_os_initialize as `__initdata`) makes the linker flag all of .init.data as
executable.
Symbols tell: what they name there is data, all but that function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vmipatch.image.symbols import STT_OBJECT, SymbolTable
from vmipatch.image.types import Section, SectionFlag


def may_hold_data(section: Section) -> bool:
    """Whether the section is flagged as executable and as writable, which code is not."""
    return section.is_alloc and section.is_exec and bool(section.flags & SectionFlag.WRITE)


def with_data_known(sections: Sequence[Section], symbols: SymbolTable) -> tuple[Section, ...]:
    """The sections, marked where objects name most bytes of one that `may_hold_data`.

    Code of assembly sources may have labels without a type: few functions say nothing.
    """
    entries = symbols.entries
    is_object = entries["info"] & 15 == STT_OBJECT

    def named_len(section: Section) -> int:
        mine = is_object & (entries["shndx"] == section.index)
        return int(entries["size"][mine].sum(dtype=np.int64))

    return tuple(
        replace(s, holds_data=2 * named_len(s) > s.size) if may_hold_data(s) else s
        for s in sections
    )

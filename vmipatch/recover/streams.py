# SPDX-License-Identifier: MIT
"""Which instructions does a kernel have whose references are not known yet?"""

from __future__ import annotations

from vmipatch.image.code_pages import real_mode_page
from vmipatch.image.elf import ElfImage
from vmipatch.isa.decode import InstructionStream, decode
from vmipatch.recover.tables import I64
from vmipatch.tables.table import Tables
from vmipatch.tables.traps import inline_data, two_byte_traps


def streams_of(image: ElfImage, tables: Tables, functions: I64) -> list[InstructionStream]:
    """The executable sections, decoded anew from each of `functions` on."""
    page = real_mode_page(image)
    splits = [*functions.tolist(), *two_byte_traps(image, tables)]
    return [
        decode(
            image.section_bytes(section),
            section.va,
            [va for va in splits if section.va <= va < section.end_va],
            inline_data(tables),
            opaque=[page] if page and section.va <= page[0] < section.end_va else [],
        )
        for section in image.executable_sections
    ]

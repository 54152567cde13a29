# SPDX-License-Identifier: MIT
"""Is debug information, which a rewrite makes stale, dropped and reported?"""

from __future__ import annotations

from tests.support.elfbuilder import TEXT, ElfBuilder
from vmipatch.image.elf import ElfImage
from vmipatch.image.relocations import R_386_32, R_386_PC32
from vmipatch.image.symbols import STT_FUNC
from vmipatch.image.types import SectionFlag
from vmipatch.rewrite import rewrite
from vmipatch.verify.static import check_static

TEXT_VA, DATA_VA = 0xC1000000, 0xC1010000
DEBUG_VA = 0xF0000000
"""Not loaded: an address for its relocation to name it by."""


def kernel() -> ElfImage:
    """A kernel of two functions and debug information."""
    builder = ElfBuilder(entry=0x01000000)
    builder.section(".text", TEXT_VA, b"\xfa\xe8\0\0\0\0\xc3", TEXT)
    builder.section(".data", DATA_VA, TEXT_VA.to_bytes(4, "little"))
    builder.symbol("f", TEXT_VA, size=7, kind=STT_FUNC)
    builder.symbol("g", TEXT_VA + 6, size=1, kind=STT_FUNC)
    builder.relocation(TEXT_VA + 2, R_386_PC32, "g")
    builder.relocation(DATA_VA, R_386_32, "f")
    builder.section(".debug_info", DEBUG_VA, b"stale" * 1000, SectionFlag.NONE)
    builder.relocation(DEBUG_VA, R_386_32, "f")
    builder.section(".comment", 0, b"kept", SectionFlag.NONE)
    return builder.image()


def test_debug_sections_are_emptied_and_named() -> None:
    original = kernel()
    done = rewrite(original)
    output = ElfImage.parse(done.data)
    assert output.section_by_name[".debug_info"].size == 0
    assert output.section_bytes(output.section_by_name[".comment"]) == b"kept"
    assert done.manifest.dropped == (".debug_info", ".rel.debug_info")
    assert check_static(original, output).holds

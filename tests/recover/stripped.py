# SPDX-License-Identifier: MIT
"""How does a test get a small kernel as distributions ship them: stripped, with kallsyms inside?

    kernel = SmallKernel()
    kernel.text.function("f", "fa c3")
    image, relocs = ship(kernel)

The relocation list is that of the build; symbols and .rel sections are gone.
"""

from __future__ import annotations

import struct

from tests.rewrite.smallkernel import PAGE, RODATA_VA, TEXT_VA, Block, SmallKernel
from tests.support.elfbuilder import (
    PAGE_OFFSET,
    RELOCATION,
    RODATA,
    BuiltSection,
    ElfBuilder,
)
from vmipatch.image.elf import ElfImage
from vmipatch.image.reloc_list import relocation_list
from vmipatch.image.relocations import Relocations
from vmipatch.image.symbols import STT_FUNC
from vmipatch.image.types import SectionFlag, SectionKind

KALLSYMS_VA = RODATA_VA + 2 * PAGE
MARKER_STEP = 256


def ship(
    kernel: SmallKernel, *, relative: bool = True, kallsyms: bool = True, emptied: bool = False
) -> tuple[ElfImage, tuple[int, ...]]:
    """The stripped kernel and its relocation list; `relative`: kallsyms as since 4.6.

    `emptied`: with the headers of .rel sections that `objcopy -S` used to leave behind.
    """
    if kallsyms:
        add_kallsyms(kernel, kernel.block(".kallsyms", KALLSYMS_VA, RODATA), relative)
    whole = kernel.image()
    builder = ElfBuilder(entry=TEXT_VA - PAGE_OFFSET)
    for block in kernel.blocks:
        data = whole.section_bytes(whole.section_by_name[block.name])
        builder.section(block.name, block.va, data, block.flags, align=block.alignment)
        if emptied:
            builder.sections.append(_emptied(block, kernel))
    return builder.image("stripped"), relocation_list(whole, Relocations.of(whole))


def _emptied(block: Block, kernel: SmallKernel) -> BuiltSection:
    """The header of relocations that are gone: no bytes, no symbol table, but what they were of."""
    applied_to = 1 + len(kernel.blocks) + sorted(b.va for b in kernel.blocks).index(block.va)
    kind, none = SectionKind.REL, SectionFlag.NONE
    return BuiltSection(
        f".rel{block.name}", 0, b"", none, kind, 0, 4, RELOCATION.size, 0, applied_to
    )


def add_kallsyms(kernel: SmallKernel, block: Block, relative: bool) -> None:
    """The names of all functions, packed as scripts/kallsyms.c does, with tokens of one letter."""
    functions = sorted(
        (va, name) for name, (va, kind, _) in kernel.labels.items() if kind == STT_FUNC
    )
    base = TEXT_VA if relative else 0
    for va, _ in functions:
        block.put(struct.pack("<I", va - base))
    if relative:
        block.put(struct.pack("<I", base))
    block.put(struct.pack("<I", len(functions)))
    records = [bytes((len(name) + 1,)) + b"T" + name.encode() for _, name in functions]
    block.put(b"".join(records))
    block.align(4, b"\0")
    offsets = [sum(map(len, records[:i])) for i in range(0, len(records), MARKER_STEP)]
    block.put(struct.pack(f"<{len(offsets)}I", *offsets))
    tokens = [
        bytes((code if chr(code).isprintable() and code < 0x7F else 0x3F, 0)) for code in range(256)
    ]
    block.put(b"".join(tokens))
    block.align(4, b"\0")
    block.put(struct.pack("<256H", *range(0, 512, 2)))

# SPDX-License-Identifier: MIT
"""How does a test get a small kernel as distributions ship them: stripped, with kallsyms inside?

    kernel = SmallKernel()
    kernel.text.function("f", "fa c3")
    image, relocs = ship(kernel)

The relocation list is that of the build; symbols and .rel sections are gone.
"""

from __future__ import annotations

from tests.rewrite.smallkernel import PAGE, RODATA_VA, TEXT_VA, Block, SmallKernel
from tests.support.elfbuilder import (
    PAGE_OFFSET,
    RELOCATION,
    RODATA,
    BuiltSection,
    ElfBuilder,
)
from tests.support.kallsyms import Style, parts
from vmipatch.image.elf import ElfImage
from vmipatch.image.reloc_list import relocation_list
from vmipatch.image.relocations import Relocations
from vmipatch.image.symbols import STT_FUNC
from vmipatch.image.types import SectionFlag, SectionKind

KALLSYMS_VA = RODATA_VA + 2 * PAGE


def ship(
    kernel: SmallKernel, *, kallsyms: Style | None = Style.OFFSETS, emptied: bool = False
) -> tuple[ElfImage, tuple[int, ...]]:
    """The stripped kernel, with kallsyms of some style, and its relocation list.

    `emptied`: with the headers of .rel sections that `objcopy -S` used to leave.
    """
    if kallsyms is not None:
        add_kallsyms(kernel, kernel.block(".kallsyms", KALLSYMS_VA, RODATA), kallsyms)
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


def add_kallsyms(kernel: SmallKernel, block: Block, style: Style) -> None:
    """The names of all functions, packed as scripts/kallsyms.c does."""
    functions = sorted(
        (va, f"T{name}") for name, (va, kind, _) in kernel.labels.items() if kind == STT_FUNC
    )
    for _, _, data in parts(functions, style, block.va):
        block.put(data)

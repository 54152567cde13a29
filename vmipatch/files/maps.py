# SPDX-License-Identifier: MIT
"""Text files that say where things are in a rewritten kernel."""

from __future__ import annotations

from vmipatch.image.elf import ElfImage
from vmipatch.image.symbols import SHN_ABS, STT_FILE, STT_SECTION, Symbol
from vmipatch.image.types import SectionFlag, SectionKind
from vmipatch.rewrite import RewrittenImage


def system_map(image: ElfImage) -> str:
    """What `nm -n` would print: address, type letter, name; by address, then by name."""
    lines = [
        f"{symbol.va:08x} {_letter(image, symbol)} {symbol.name}"
        for symbol in image.symbols
        if symbol.name and symbol.kind not in (STT_SECTION, STT_FILE) and symbol.section
    ]
    return "".join(f"{line}\n" for line in sorted(lines))


def _letter(image: ElfImage, symbol: Symbol) -> str:
    is_global = image.symbols.entries["info"][symbol.index] >> 4
    if symbol.section >= SHN_ABS:
        letter = "a"
    else:
        section = image.sections[symbol.section]
        if section.is_exec:
            letter = "t"
        elif section.kind is SectionKind.NOBITS:
            letter = "b"
        else:
            letter = "d" if section.flags & SectionFlag.WRITE else "r"
    return letter.upper() if is_global else letter


def address_map(result: RewrittenImage) -> str:
    """One line for each range that moves as one: old start, new start, both ways readable."""
    header = "# old start, new start; a range reaches to the next line\n"
    new = result.placement.map
    pairs = zip(new.starts.tolist(), new.deltas.tolist(), strict=True)
    return header + "".join(f"{old:08x} {old + delta:08x}\n" for old, delta in pairs)

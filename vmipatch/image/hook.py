# SPDX-License-Identifier: MIT
"""Before which function does the runtime run, and how far does that function reach?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vmipatch.image.elf import ElfImage
from vmipatch.image.symbols import SHN_UNDEF, STT_FUNC

START = "start_kernel"
"""Where the C code of Linux begins (init/main.c): unless another function is named, the hook."""


def records_in_room(start: str) -> bool:
    """Whether annotations lie in the room after .text, and not after the kernel.

    Linux's own memory map, of which the loader knows, has pages after it. Another kernel, whose C
    code begins at `start`, may have mapped none, or have given them to someone, when that begins.
    """
    return start != START


def mapped_range(image: ElfImage) -> tuple[int, int]:
    """[start, end) of what is linked at virtual addresses, as .text is."""
    loads = [s for s in image.loads if s.va - s.pa == image.page_offset]
    return min(s.va for s in loads), max(s.va + s.mem_len for s in loads)


def hook_va(image: ElfImage, name: str) -> int | None:
    """The address of the function `name`; None if no code has that name, or several have it."""
    entries = image.symbols.entries
    code = [section.index for section in image.executable_sections]
    offs = list(_offsets_of(image.symbols.strings, name.encode() + b"\0"))
    named = np.isin(entries["name"], offs) & np.isin(entries["shndx"], code)
    vas = set(entries["value"][named].tolist())
    return vas.pop() if len(vas) == 1 else None


def _offsets_of(strings: bytes, name: bytes) -> Iterator[int]:
    """Where names that read `name` begin; linkers let one name be the end of another."""
    at = strings.find(name)
    while at >= 0 and len(name) > 1:
        yield at
        at = strings.find(name, at + 1)


def own_end(image: ElfImage, va: int) -> int:
    """The first address after the function at `va`: what branches to it from there is a loop.

    By its size; of a function without one, as assemblers leave it, to the next function or global
    label, or the end of its section.
    """
    entries = image.symbols.entries[image.symbols.entries["shndx"] != SHN_UNDEF]
    value = entries["value"].astype(np.int64)
    here = entries[(value == va) & (entries["info"] & 15 == STT_FUNC)]
    if size := int(here["size"].max(initial=0)):
        return va + size
    section = image.section_at(va)
    end_va = va + 1 if section is None else section.end_va
    borders = value[(entries["info"] & 15 == STT_FUNC) | (entries["info"] >> 4 != 0)]
    return int(borders[(borders > va) & (borders < end_va)].min(initial=end_va))

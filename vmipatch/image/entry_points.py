# SPDX-License-Identifier: MIT
"""Where does a boot loader enter a kernel, and what in its code is for the loader alone?"""

from __future__ import annotations

from vmipatch.image.elf import ElfImage
from vmipatch.image.multiboot import multiboot_headers


def entry_points(image: ElfImage) -> tuple[int, ...]:
    """Linked addresses of the entries that the ELF header and multiboot headers name, ascending."""
    named = [image.entry]
    for header in multiboot_headers(image.data):
        named += header.entries
    return tuple(sorted({linked_address(image, address) for address in named}))


def linked_address(image: ElfImage, address: int) -> int:
    """The linked address of what a loader finds at `address`, linked or physical.

    What no segment holds is taken for a physical address of the first one, as Linux's entry is.
    """
    loads = list(image.loads)
    if any(load.va <= address < load.va + load.mem_len for load in loads):
        return address
    for load in loads:
        if load.pa <= address < load.pa + load.mem_len:
            return load.va + address - load.pa
    return address if address >= image.page_offset else address + image.page_offset


def header_ranges(image: ElfImage) -> tuple[tuple[int, int], ...]:
    """[start, end) of each multiboot header that lies in code, ascending."""
    found = []
    for header in multiboot_headers(image.data):
        for section in image.executable_sections:
            start_va = section.va + header.off - section.off
            if section.va <= start_va and start_va + header.length <= section.end_va:
                found.append((start_va, start_va + header.length))
    return tuple(sorted(found))

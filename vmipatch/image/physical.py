# SPDX-License-Identifier: MIT
"""Which symbols are physical addresses, though their section is linked at virtual ones?

Where the loader enters before there are page tables, sources define the entry as a label less the
distance to virtual addresses (`_start = entry - KERNBASE`). Assembler and linker leave it in the
section of the label, and its value outside.
"""

from __future__ import annotations

import numpy as np

from vmipatch.image.elf import ElfImage


def virtual_distances(image: ElfImage) -> np.ndarray:
    """For each symbol what its value lacks to be a linked address of its section (i64): 0 but for
    those that are physical addresses.
    """
    entries = image.symbols.entries
    value = entries["value"].astype(np.int64)
    result = np.zeros(len(entries), np.int64)
    for section in image.allocated_sections:
        load = next((s for s in image.loads if s.va <= section.va < s.va + s.mem_len), None)
        if load is None or load.va == load.pa:
            continue
        mine = entries["shndx"] == section.index
        twin = value + load.va - load.pa
        outside = (value < section.va) | (value > section.end_va)
        result[mine & outside & (section.va <= twin) & (twin <= section.end_va)] = load.va - load.pa
    return result

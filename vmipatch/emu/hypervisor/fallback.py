# SPDX-License-Identifier: MIT
"""Which `hlt` stands for another instruction? The guest's own table of one-byte fallbacks.

A paravirtual kernel puts a HLT, which faults at CPL 1 at any length, over the first byte of an
instruction that would not fault and has no room for a call; call SET_FALLBACK announces them all.
"""

from __future__ import annotations

from typing import Final

from vmipatch.emu.processor.memory import PAGE_LEN
from vmipatch.emu.processor.tlb import CachingMmu

HLT: Final = b"\xf4"
ENTRY_LEN: Final = 8
"""u32 address, u8 first byte of the instruction, three bytes 0."""
MAX_ENTRIES: Final = 1 << 12


def read_fallbacks(mmu: CachingMmu, table_va: int, count: int) -> dict[int, bytes]:
    """The first byte after each address, from the guest's table. Raises PageFault.

    ValueError for a table that no kernel needs, or that is not all in memory.
    """
    if count > MAX_ENTRIES:
        raise ValueError(f"{count} entries are no table of fallbacks")
    end_va = table_va + count * ENTRY_LEN
    for va in (table_va, *range((table_va | PAGE_LEN - 1) + 1, end_va, PAGE_LEN)):
        if count and not mmu.memory.can_read(mmu.translate(va)):
            raise ValueError(f"there is no memory at {va:#x}")
    table = mmu.read(table_va, count * ENTRY_LEN)
    return {
        int.from_bytes(table[at : at + 4], "little"): table[at + 4 : at + 5]
        for at in range(0, len(table), ENTRY_LEN)
    }

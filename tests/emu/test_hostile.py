# SPDX-License-Identifier: MIT
"""Can a guest keep the host busy, or learn what it must not? Each runs against the host's clock."""

from __future__ import annotations

from typing import Final

import pytest

from tests.emu.hostile import run_in_time
from tests.emu.ring1_guest import INIT
from vmipatch.emu.report import Ending
from vmipatch.vmi.shared import ROM_PA, TIME_PA

MS: Final = 1_000_000
TABLES = 0x400000
VICTIM_VA = 0x10000000
STRIDE = 0x1000000

# One round of 44 bytes: a write to the victim, which sets bits 5 and 6 of its page table entry,
# and reads of twelve pages that share its place in the CPU's translation cache, so that the next
# round walks the page tables again. A LEFT in that entry would lose 44 and gain up to 96 each time.
ROUND = """
    .byte 0x89, 0x45, 0x00
    .byte 0x8b, 0x03
    .byte 0x8b, 0x04, 0x0b, 0x8b, 0x04, 0x4b, 0x8b, 0x04, 0x8b, 0x8b, 0x04, 0xcb
    .byte 0x8b, 0x04, 0x93, 0x8b, 0x04, 0xd3, 0x8b, 0x04, 0xf3, 0x8b, 0x04, 0x17
    .byte 0x8b, 0x04, 0x57, 0x8b, 0x04, 0x77, 0x8b, 0x04, 0xb7, 0x8b, 0x04, 0xd7
    nop
    .byte 0xeb, 0xd4
"""
WALK_FOR_EVER = f"""
    mov edi, {TABLES}
    mov ecx, 1024
    mov eax, 0x83
    cld
    .byte 0xf3, 0xab
    mov dword ptr [{TABLES + 4}], {TABLES | 0x83}
    mov dword ptr [{TABLES + 4 * (VICTIM_VA >> 22)}], PAGE_TABLE
    mov dword ptr [0x500000], 0x600003
    {INIT}
    mov eax, 0x10
    mov cr4, eax
    mov eax, {TABLES}
    mov cr3, eax
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
    mov ebp, {VICTIM_VA}
    mov ebx, {VICTIM_VA + STRIDE}
    mov ecx, {STRIDE}
    mov edx, {4 * STRIDE}
    mov esi, {8 * STRIDE}
    mov edi, {VICTIM_VA + 2 * STRIDE}
    jmp sync
    .p2align 4
sync:
    mov eax, dword ptr [{TIME_PA}]
    test al, 1
    jnz walk
    jmp odd
odd:
    nop
    nop
    nop
    jmp again
again:
    nop
    jmp sync
walk:
    jmp attack
    .p2align 5
attack:
    {ROUND}
"""
"""An entry of TIME_PA is present when LEFT is odd; the loop in front waits for that."""


@pytest.mark.parametrize("page_pa", [TIME_PA, ROM_PA, 0x500000])
def test_page_table_on_a_page_of_the_host_stops_no_clock(page_pa: int) -> None:
    done = run_in_time(WALK_FOR_EVER.replace("PAGE_TABLE", str(page_pa | 3)), 20 * MS)
    assert done.ending is Ending.LIMIT or (done.ending, done.words[0]) == (Ending.HALTED, 1)

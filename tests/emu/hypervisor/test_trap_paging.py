# SPDX-License-Identifier: MIT
"""Do emulated instructions go through the page tables, with faults and bits of their own?"""

from __future__ import annotations

import pytest

from tests.emu.guest import DATA_PA, KERNEL_DS, TABLES_PA, Gate
from tests.emu.ring1_guest import run_both
from vmipatch.emu.report import Ending

DIRECTORY_PA, TABLE_PA = 0x200000, 0x201000
WINDOW_VA = 0x800000
"""Four pages: absent, read-only at 0x300000, writable at 0x301000, absent."""
D = DATA_PA

PAGING = f"""
    mov edi, {DIRECTORY_PA}
    mov ecx, 0x800
    mov eax, 0
    cld
    rep stosd
    mov dword ptr [{DIRECTORY_PA}], 0x83
    mov dword ptr [{DIRECTORY_PA + 4}], 0x400083
    mov dword ptr [{DIRECTORY_PA + 8}], {TABLE_PA | 7}
    mov dword ptr [{TABLE_PA + 4}], 0x300001
    mov dword ptr [{TABLE_PA + 8}], 0x301003
    mov eax, 0x10
    mov cr4, eax
    mov eax, {DIRECTORY_PA}
    mov cr3, eax
    mov eax, cr0
    or eax, 0x80010000
    mov cr0, eax
"""

REPORT = f"""
handler:
    mov ebx, esp
    mov esp, 0x12f000
    mov eax, dword ptr [ebx]
    mov dword ptr [{D}], eax
    mov eax, dword ptr [ebx + 4]
    mov dword ptr [{D + 4}], eax
    mov eax, cr2
    mov dword ptr [{D + 8}], eax
    mov dword ptr [{D + 12}], ebp
    cli
    hlt
"""

DISTURBED = {
    "sgdt to a read-only page": (
        f"at: .byte 0x0f, 0x01, 0x05\n .long {WINDOW_VA + 0x1100}",
        WINDOW_VA + 0x1100,
    ),
    "sgdt across the end of a page": (
        f"at: .byte 0x0f, 0x01, 0x05\n .long {WINDOW_VA + 0x2FFD}",
        WINDOW_VA + 0x3000,
    ),
    "lgdt from an absent page": (
        f"at: .byte 0x0f, 0x01, 0x15\n .long {WINDOW_VA + 0x10}",
        WINDOW_VA + 0x10,
    ),
    "mov ss from an absent page": (f"at: mov ss, word ptr [{WINDOW_VA}]", WINDOW_VA),
    "lldt from an absent page": (f"at: lldt word ptr [{WINDOW_VA + 6}]", WINDOW_VA + 6),
}


@pytest.mark.parametrize("name", DISTURBED, ids=lambda name: name.replace(" ", "-"))
def test_page_fault_of_an_emulated_instruction_is_the_guests(name: str) -> None:
    body, fault_va = DISTURBED[name]
    native, trap = run_both(f"{PAGING}\n {body}\n ud2\n {REPORT}", {14: Gate("handler")})
    assert [trap.word(i) for i in range(3)] == [native.word(i) for i in range(3)]
    assert (trap.word(1), trap.word(2)) == (trap.code.labels["at"], fault_va)


def test_stack_that_leads_nowhere_is_a_triple_fault_and_nothing_worse() -> None:
    body = f"mov esp, {WINDOW_VA + 0x1000}\n pushfd"
    for run in run_both(f"{PAGING}\n {body}\n ud2\n {REPORT}", {14: Gate("handler")}):
        assert run.result.ending is Ending.TRIPLE_FAULT


def test_emulated_store_sets_accessed_and_dirty() -> None:
    source = f"""
        {PAGING}
        .byte 0x0f, 0x01, 0x05
        .long {WINDOW_VA + 0x2100}
        mov eax, dword ptr [{TABLE_PA + 8}]
        mov dword ptr [{D}], eax
        mov eax, dword ptr [0x301100]
        mov dword ptr [{D + 4}], eax
        cli
        hlt
    """
    native, trap = run_both(source)
    assert trap.word(0) == native.word(0) == 0x301063
    assert trap.word(1) == native.word(1) == (TABLES_PA << 16 | 0x2F) & 0xFFFFFFFF


@pytest.mark.parametrize("flush", [f"invlpg [{WINDOW_VA + 0x2000}]", "mov eax, cr3\n mov cr3, eax"])
def test_new_page_table_entry_holds_after_a_flush(flush: str) -> None:
    source = f"""
        {PAGING}
        mov dword ptr [0x301000], 0x11111111
        mov dword ptr [0x302000], 0x22222222
        mov eax, dword ptr [{WINDOW_VA + 0x2000}]
        mov dword ptr [{D}], eax
        .byte 0x0f, 0x01, 0x05
        .long {WINDOW_VA + 0x2008}
        mov dword ptr [{TABLE_PA + 8}], 0x302003
        {flush}
        mov eax, dword ptr [{WINDOW_VA + 0x2000}]
        mov dword ptr [{D + 4}], eax
        .byte 0x0f, 0x01, 0x05
        .long {WINDOW_VA + 0x2008}
        mov eax, dword ptr [0x302008]
        mov dword ptr [{D + 8}], eax
        cli
        hlt
    """
    native, trap = run_both(source)
    seen = [trap.word(i) for i in range(3)]
    assert seen == [native.word(i) for i in range(3)]
    assert seen == [0x11111111, 0x22222222, (TABLES_PA << 16 | 0x2F) & 0xFFFFFFFF]


def test_kernel_code_runs_from_the_page_tables_of_the_guest() -> None:
    source = f"""
        {PAGING}
        mov eax, {KERNEL_DS}
        mov ss, ax
        mov byte ptr [0x301000], 0x9c
        mov byte ptr [0x301001], 0x58
        mov byte ptr [0x301002], 0xc3
        sti
        mov ecx, {WINDOW_VA + 0x2000}
        call ecx
        mov dword ptr [{D}], eax
        cli
        hlt
    """
    native, trap = run_both(source)
    assert trap.word(0) == native.word(0)
    assert trap.word(0) & 0x200

# SPDX-License-Identifier: MIT
"""Can a guest keep the host busy, or learn what it must not? Each runs against the host's clock."""

from __future__ import annotations

from typing import Final

import pytest

from tests.emu.guest import TO_USER, Gate
from tests.emu.hostile import run_in_time
from tests.emu.ring1_guest import INIT, ModeGuest
from tests.emu.test_attacks import END, D, attack
from vmipatch.emu.machine import MachineOptions
from vmipatch.emu.modes import Mode
from vmipatch.emu.report import Ending
from vmipatch.vmi.shared import ROM_PA, TIME_PA

MS: Final = 1_000_000
LOOP = "stay: jmp stay"
CATCH_ADDRESS = f"""
catch:
    mov eax, dword ptr ss:[esp]
    mov dword ptr ss:[{D + 24}], eax
    {END}
"""
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


ANSWERS = f"""
    mov dword ptr ss:[{D + 16}], eax
    mov dword ptr ss:[{D + 20}], edx
"""


@pytest.mark.parametrize("mode", [Mode.NATIVE, Mode.TRAP, Mode.PARAVIRT])
@pytest.mark.parametrize("ring", [0, 3])
@pytest.mark.parametrize(
    "code",
    ["0f01f9", "0fc7f0", "660fc7f0", "0fc7f8", "f30fc7f8", "0f34", "0f05"],
    ids=["rdtscp", "rdrand", "rdrand16", "rdseed", "rdpid", "sysenter", "syscall"],
)
def test_instruction_that_the_cpu_does_not_have_is_undefined(
    code: str, ring: int, mode: Mode
) -> None:
    octets = "\n".join(f".byte 0x{code[i : i + 2]}" for i in range(0, len(code), 2))
    start = INIT if mode.has_rom else ""
    start += f"{TO_USER}\nuser:" if ring else ""
    source = f"{start}\n sub eax, eax\n sub edx, edx\n here:\n {octets}\n {ANSWERS}\n {LOOP}"
    guest = ModeGuest(f"{source}\n{CATCH_ADDRESS}", {6: Gate("catch")}, mode=mode)
    run = guest.run(MachineOptions(ram_len=8 << 20, limit_ns=20 * MS))
    assert run.result.ending is Ending.HALTED
    assert (run.word(4), run.word(5)) == (0, 0), "nothing of the host is to be seen"
    assert run.word(6) == run.code.labels["here"]


@pytest.mark.parametrize("use", ["mov eax, dword ptr [edi]", "mov dword ptr [edi], 5", "jmp edi"])
@pytest.mark.parametrize("bit", [32, 36, 39, 40, 51])
def test_physical_address_that_no_pc_has_is_the_guests_own_trouble(bit: int, use: str) -> None:
    source = f"""
        mov edi, {TABLES + 0x1000}
        mov eax, 0x87
    fill:
        mov dword ptr [edi], eax
        mov dword ptr [edi + 4], 0
        add edi, 8
        add eax, 0x200000
        cmp edi, {TABLES + 0x2000}
        jne fill
        mov dword ptr [{TABLES}], {TABLES + 0x1001}
        mov dword ptr [{TABLES + 8}], {TABLES + 0x2001}
        mov dword ptr [{TABLES + 0x2000}], 0x87
        mov dword ptr [{TABLES + 0x2004}], {1 << (bit - 32)}
        mov eax, 0x30
        mov cr4, eax
        mov eax, {TABLES}
        mov cr3, eax
        mov eax, cr0
        or eax, 0x80000000
        mov cr0, eax
        mov edi, 0x40000000
        {use}
        {END}
    """
    run = attack(source)
    assert run.result.ending is Ending.HALTED
    is_fault = bit >= 40 or use.startswith("jmp")
    assert run.word(0) == is_fault, "a hole reads as ones, has no code, and ends at bit 40"

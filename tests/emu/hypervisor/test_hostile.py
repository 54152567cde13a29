# SPDX-License-Identifier: MIT
"""Can a guest keep the host busy, or learn what it must not? Each runs against the host's clock."""

from __future__ import annotations

from typing import Final

import pytest

from tests.emu.guest import TO_USER, Gate
from tests.emu.hypervisor.hostile import run_in_time
from tests.emu.hypervisor.test_attacks import (
    ATTACK,
    DATA_EVERYTHING,
    END,
    EVERYTHING,
    FRESH_CS,
    FRESH_SS,
    TASK_PA,
    D,
    attack,
    descriptor_words,
    task_descriptor,
    task_state,
)
from tests.emu.ring1_guest import INIT, ModeGuest, paravirt_of
from vmipatch.choices import Mode
from vmipatch.emu.hypervisor import audit
from vmipatch.emu.options import MachineOptions
from vmipatch.emu.report import Ending
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.shared import ROM_PA, TIME_PA, Hypercall

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


def test_table_of_fallbacks_costs_time_and_patience() -> None:
    """Three hundred calls: at the limit after a few of them, whatever the guest has executed."""
    source = f"""
        {INIT}
        mov ecx, 300
    more:
        mov eax, 0x200000
        mov edx, 4096
        mov ebx, {int(VmiCall.SET_FALLBACK)}
        int {int(Hypercall.CALL)}
        inc dword ptr [{D + 4}]
        dec ecx
        jnz more
        {END}
    """
    done = run_in_time(source, 10 * MS)
    assert done.ending is Ending.LIMIT
    assert 0 < done.words[1] < 30


@pytest.mark.parametrize(
    ("table", "count"), [(0x200000, 4097), (0xE0000000, 1), (0x7FFFF8, 2), (0xFFFFFFF8, 2)]
)
def test_table_of_fallbacks_outside_of_memory_is_refused(table: int, count: int) -> None:
    source = f"""
        {INIT}
        mov eax, {table}
        mov edx, {count}
        mov ebx, {int(VmiCall.SET_FALLBACK)}
        int {int(Hypercall.CALL)}
        {END}
    """
    run = attack(source, Mode.PARAVIRT)
    assert (run.result.ending, run.word(0)) == (Ending.HALTED, 1)


def test_log_of_emulated_instructions_does_not_grow_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(audit, "MOST_FINDINGS", 3)
    run = attack(f"{INIT}\n cli\n cli\n cli\n cli\n {END}", Mode.PARAVIRT)
    log = paravirt_of(run.machine).world.audit
    assert len(log.findings()) == 3
    assert log.lost == 3, "two of cli, one of hlt"


@pytest.mark.parametrize("ring", [1, 3])
def test_return_to_virtual_8086_mode_ends_before_its_first_instruction(ring: int) -> None:
    """Unicorn does not ask for CPL 0, as a CPU does."""
    source = f"""
        {INIT}
        mov word ptr [0x1000], 0x06fe
        mov word ptr [0x1002], 0x2000
        mov byte ptr [0x2000], 0
        {f"{TO_USER}" if ring == 3 else "jmp user"}
    user:
        push 0
        push 0
        push 0
        push 0
        push 0
        push 0x2000
        push 0x20202
        push 0x100
        push 0
        iretd
    """
    run = attack(source, Mode.PARAVIRT)
    assert (run.result.ending, run.result.details) == (
        Ending.UNSUPPORTED,
        "a return to virtual 8086 mode",
    )
    assert run.machine.memory.read_u8(0x2000) == 0


def test_nested_task_of_a_process_is_not_looked_up_in_page_0() -> None:
    source = f"""
        {INIT}
        {descriptor_words(EVERYTHING, task_descriptor(TASK_PA, 0xB), DATA_EVERYTHING)}
        {task_state(0, FRESH_CS, FRESH_SS)}
        mov dword ptr [0], {ATTACK}
        {TO_USER}
    user:
        push 0x4202
        popfd
        iretd
    """
    run = attack(source, Mode.PARAVIRT)
    assert (run.result.ending, run.word(0)) == (Ending.HALTED, 1)


@pytest.mark.parametrize(("end", "is_taken"), [(0x110000, True), (0x110001, False)])
def test_guest_cannot_hide_its_whole_kernel_from_the_audit(end: int, is_taken: bool) -> None:
    source = f"""
        {INIT}
        mov eax, 0x100000
        mov edx, {end}
        mov ebx, {int(VmiCall.SET_RUNTIME)}
        int {int(Hypercall.CALL)}
        {END}
    """
    run = attack(source, Mode.AUDIT)
    assert run.result.ending is Ending.HALTED
    assert run.word(0) == (0 if is_taken else 1)

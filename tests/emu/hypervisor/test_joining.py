# SPDX-License-Identifier: MIT
"""Do further processors become paravirtual, each with a shared page of its own and one clock?"""

from __future__ import annotations

import pytest

from tests.emu.guest import (
    DATA_PA,
    IDT_OFF,
    KERNEL_CS,
    KERNEL_DS,
    TABLES_PA,
    EndedGuest,
)
from tests.emu.ring1_guest import ModeGuest, call_rom, entries, entry_words
from tests.emu.second_processor import (
    APIC_ON,
    ARRIVAL,
    INIT_SECOND,
    SECOND_STACK_PA,
    START,
    STARTUP_SECOND,
    TWO,
    until,
)
from vmipatch.choices import Mode
from vmipatch.emu.hypervisor.exits import ExitKind
from vmipatch.emu.hypervisor.initial_state import STATE_LEN
from vmipatch.emu.hypervisor.paravirt import ParavirtPrivilege
from vmipatch.emu.report import Ending
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.shared import ROM_PA

C = VmiCall
MODES = pytest.mark.parametrize("mode", [Mode.PARAVIRT, Mode.AUDIT])
READY, DONE, COUNT, SEEN = (DATA_PA + 4 * index for index in range(4))
OFF = "mov dx, 0x604\n mov ax, 0x3401\n out dx, ax\n"
DIRECTORY_PA, STATE_PA, TABLE_PA = 0x200000, 0x201000, 0x202000
HIGH = 0xC0000000
TABLES = f"""
    mov dword ptr [{DIRECTORY_PA}], 0x83
    mov dword ptr [{DIRECTORY_PA + 4 * (HIGH >> 22)}], 0x83
    mov dword ptr [{DIRECTORY_PA + 4 * (0xFEC00000 >> 22)}], 0xfec00083
"""
PAGING = f"""
    mov eax, 0x10
    mov cr4, eax
    mov eax, {DIRECTORY_PA}
    mov cr3, eax
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
"""


def vmi_init(base_va: int = 0) -> str:
    return f"""
        mov eax, {base_va + ROM_PA + 0x80}
        call eax
        test eax, eax
        jz paravirtual
        ud2
    paravirtual:
    """


def run(first: str, second: str, mode: Mode = Mode.PARAVIRT, base_va: int = 0) -> EndedGuest:
    """Two processors, of which the first has page tables and has called VMI_Init."""
    source = f"""
        {TABLES} {PAGING} {vmi_init(base_va)}
        {first}
        {ARRIVAL}
        {second}
        .p2align 2
        {entry_words(*CALLS)}
    """
    return ModeGuest(source, {}, mode=mode).run(TWO)


CALLS = (
    C.ENABLE_INTERRUPTS, C.DISABLE_INTERRUPTS, C.GET_INTERRUPT_MASK, C.RDTSC,
    C.SET_INITIAL_AP_STATE,
)  # fmt: skip


def of(done: EndedGuest, number: int) -> ParavirtPrivilege:
    assert done.machine.processors is not None
    privilege = done.machine.processors.each[number].privilege
    assert isinstance(privilege, ParavirtPrivilege)
    return privilege


@MODES
def test_processor_joins_with_its_page_tables_and_has_a_page_of_its_own(mode: Mode) -> None:
    """The first has interrupts off, the second on: each reads what is its own."""
    first = f"""
        {call_rom(C.DISABLE_INTERRUPTS)}
        {START} {until(READY, 1, "wait")}
        {call_rom(C.GET_INTERRUPT_MASK)}
        mov dword ptr [{COUNT}], eax
        {OFF}
    """
    second = f"""
        {PAGING}
        {call_rom(C.ENABLE_INTERRUPTS)}
        mov dword ptr [{READY}], 1
        mov ecx, 200000
    busy:
        loop busy
        {call_rom(C.GET_INTERRUPT_MASK)}
        mov dword ptr [{SEEN}], eax
        jmp busy
    """
    done = run(first, second, mode)
    assert done.result.ending is Ending.POWERED_OFF, done.result.details
    assert done.word(2) & 0x200 == 0
    assert of(done, 0).is_paravirtual
    assert of(done, 1).is_paravirtual
    assert not [each for each in of(done, 0).findings() if each.is_unprivileged]


@MODES
def test_pages_are_not_mixed_up_at_changes_of_the_processor(mode: Mode) -> None:
    """Each asks a thousand times, with the other in between, whether its interrupts are on."""
    ask = f"""
        mov ebp, 1000
    {{0}}:
        {call_rom(C.GET_INTERRUPT_MASK)}
        and eax, 0x200
        cmp eax, {{1}}
        je {{0}}_right
        lock inc dword ptr [{SEEN}]
    {{0}}_right:
        pause
        dec ebp
        jnz {{0}}
    """
    off, on = C.DISABLE_INTERRUPTS, C.ENABLE_INTERRUPTS
    first = f"""
        {call_rom(off)} \n {START} {until(READY, 1, "wait")}
        {ask.format("one", 0)} {until(DONE, 1, "end")} {OFF}
    """
    second = f"""
        {PAGING} {call_rom(on)}
        mov dword ptr [{READY}], 1
        {ask.format("two", 0x200)}
        mov dword ptr [{DONE}], 1
    for_ever:
        jmp for_ever
    """
    done = run(first, second, mode)
    assert done.result.ending is Ending.POWERED_OFF, done.result.details
    assert done.word(3) == 0
    assert done.machine.processors is not None
    assert done.machine.processors.switches > 500


def test_clock_is_one_for_both_and_never_goes_back() -> None:
    """They read it in turn, by the ROM: each finds more than the other has just found.

    Each reading lets time go on, and the first has read it often since the second joined.
    """
    read = f"""
        {call_rom(C.RDTSC)}
        cmp edx, dword ptr [{SEEN + 4}]
        jne {{0}}_high
        cmp eax, dword ptr [{SEEN}]
    {{0}}_high:
        ja {{0}}_later
        inc dword ptr [{COUNT}]
    {{0}}_later:
        mov dword ptr [{SEEN}], eax
        mov dword ptr [{SEEN + 4}], edx
    """
    rounds = f"""
        mov ebp, {{2}}
    {{0}}:
        pause
        cmp dword ptr [{READY}], ebp
        jne {{0}}
        {read}
        inc dword ptr [{READY}]
        add ebp, 2
        cmp ebp, 400
        jb {{0}}
    """
    often = f"mov ebp, 300\n often:\n {call_rom(C.RDTSC)}\n dec ebp\n jnz often\n"
    begin = f"mov dword ptr [{READY}], 0\n"
    joined = until(DONE, 1, "joined")
    one, two = (
        rounds.replace("{0}", name).replace("{2}", parity)
        for name, parity in (("one", "0"), ("two", "1"))
    )
    first = f"mov dword ptr [{READY}], 1000\n {START} {joined} {often} {begin} {one} {OFF}"
    second = f"{PAGING} mov dword ptr [{DONE}], 1\n {two} hang: jmp hang"
    done = run(first, second)
    assert done.result.ending is Ending.POWERED_OFF, done.result.details
    assert done.word(2) == 0
    assert done.word(0) >= 398


def test_fallback_is_met_before_paging_at_its_physical_address() -> None:
    """The first covers `pushf` of head code, whose linear address is high, with a HLT."""
    set_fallback = HIGH + entries()[C.SET_FALLBACK]
    first = f"""
        mov eax, head
        add eax, {HIGH}
        mov dword ptr [{TABLE_PA}], eax
        mov dword ptr [{TABLE_PA + 4}], 0x9c
        mov byte ptr [head], 0xf4
        mov eax, {HIGH + TABLE_PA}
        mov edx, 1
        mov ecx, {set_fallback}
        call ecx
        {START} {until(READY, 1, "wait")} {OFF}
    """
    second = f"""
        std
    head:
        pushfd
        cld
        pop dword ptr [{SEEN}]
        {PAGING}
        mov dword ptr [{READY}], 1
    for_ever:
        jmp for_ever
    """
    done = run(first, second, base_va=HIGH)
    assert done.result.ending is Ending.POWERED_OFF, done.result.details
    assert done.word(3) & 0x600 == 0x400  # direction set, interrupts off
    assert done.result.statistics.traps[ExitKind.FALLBACK] == 1
    assert of(done, 1).is_paravirtual


def _state(**values: int) -> str:
    """Stores of a struct vmi_ap_state (include/asm-x86/vmi.h of Linux 2.6.24), zero elsewhere."""
    words = {"cr0": 0, "cr3": 8, "cr4": 12, "eip": 24, "eflags": 28, "ebx": 36, "esp": 48}
    halves = {"cs": 64, "ss": 66, "ds": 68, "es": 70, "fs": 72, "gs": 74}
    lines = [f"mov ecx, {STATE_LEN}\n mov edi, {STATE_PA}\n xor eax, eax\n cld\n rep stosb"]
    for name, value in values.items():
        if name in words:
            lines.append(f"mov dword ptr [{STATE_PA + words[name]}], {value}")
        else:
            lines.append(f"mov word ptr [{STATE_PA + halves[name]}], {value}")
    tables = ((78, 0x2F), (80, TABLES_PA), (84, TABLES_PA + IDT_OFF), (88, 0x7FF))
    for off, value in tables:
        size = "word" if value < 0x10000 else "dword"
        lines.append(f"mov {size} ptr [{STATE_PA + off}], {value}")
    return "\n".join(lines)


SOUND = dict(
    cr0=0x80000011, cr3=DIRECTORY_PA, cr4=0x10, eflags=2, ebx=0x600DF00D, esp=SECOND_STACK_PA,
    cs=KERNEL_CS, ss=KERNEL_DS, ds=KERNEL_DS, es=KERNEL_DS,
)  # fmt: skip
TELL = f"""
    mov eax, begun
    mov dword ptr [{STATE_PA + 24}], eax
    mov eax, {STATE_PA}
    mov edx, 1
    {call_rom(C.SET_INITIAL_AP_STATE)}
    {APIC_ON} {INIT_SECOND} {STARTUP_SECOND}
"""
BEGUN = f"""
    begun:
        mov dword ptr [{SEEN}], ebx
        mov eax, cs
        mov dword ptr [{COUNT}], eax
        {call_rom(C.GET_INTERRUPT_MASK)}
        mov dword ptr [{DONE}], eax
        mov dword ptr [{READY}], 1
    for_ever:
        jmp for_ever
"""


@MODES
def test_processor_begins_in_the_state_that_the_guest_told(mode: Mode) -> None:
    first = f"{_state(**SOUND)} {TELL} {until(READY, 1, 'wait')} {OFF}"
    done = run(first, BEGUN, mode)
    assert done.result.ending is Ending.POWERED_OFF, done.result.details
    assert done.word(3) == SOUND["ebx"]
    assert done.word(2) == KERNEL_CS | 1
    assert done.word(1) & 0x200 == 0
    assert of(done, 1).is_paravirtual


@pytest.mark.parametrize(
    "change",
    [
        {"cs": 0}, {"cs": KERNEL_DS}, {"cs": 0x1B}, {"ss": 0}, {"ss": KERNEL_CS}, {"ss": 0x23},
        {"ds": 0xFFF8}, {"cr3": 0x300000},
    ],
)  # fmt: skip
def test_state_that_no_processor_can_have_ends_the_run(change: dict[str, int]) -> None:
    first = f"{_state(**{**SOUND, **change})} {TELL} hang: jmp hang"
    done = run(first, BEGUN)
    assert done.result.ending is Ending.UNSUPPORTED
    assert "state of a processor" in done.result.details


def test_state_counts_for_one_startup_and_only_for_its_processor() -> None:
    """The second time the processor begins in real mode, and is not paravirtual."""
    first = f"""
        {_state(**SOUND)} {TELL} {until(READY, 1, "wait")}
        {START} {until(READY, 2, "again")} {OFF}
    """
    done = run(first, f"mov dword ptr [{READY}], 2\n hlt\n {BEGUN}")
    assert done.result.ending is Ending.POWERED_OFF, done.result.details
    assert not of(done, 1).is_paravirtual

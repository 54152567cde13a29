# SPDX-License-Identifier: MIT
"""Can a guest get to CPL 0, or harm the host? Each attack ends with a verdict, not at CPL 0."""

from __future__ import annotations

import random

import pytest

from tests.emu.guest import (
    CODE_PA,
    DATA_PA,
    KERNEL_CS,
    KERNEL_DS,
    PRELUDE,
    STACK_PA,
    TABLES_PA,
    TO_USER,
    EndedGuest,
    Gate,
)
from tests.emu.ring1_guest import INIT, ModeGuest, call_rom, entry_words
from vmipatch.choices import Mode
from vmipatch.emu.machine import Machine
from vmipatch.emu.options import MachineOptions
from vmipatch.emu.report import Ending
from vmipatch.isa.assemble import Assembled, assemble
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.shared import ROM_PA, SHARED_PA, TIME_PA, Hypercall, Shared

SHORT = MachineOptions(ram_len=8 << 20, limit_ns=50_000_000)
VERY_SHORT = MachineOptions(ram_len=8 << 20, limit_ns=200_000)
D = DATA_PA
GDT_PA = 0x122000
TASK_PA = 0x123000
FRESH_CS, ATTACK, FRESH_SS, TASK_GATE = 0x30, 0x38, 0x40, 0x48
EVERYTHING = 0x00CF9B000000FFFF
DATA_EVERYTHING = 0x00CF93000000FFFF
CONFORMING = 0x00CF9F000000FFFF
END = "\n cli\n hlt\n"
CATCH = f"""
catch:
    mov eax, {KERNEL_DS}
    mov ds, ax
    inc dword ptr ss:[{D}]
    mov dword ptr ss:[{D + 4}], esp
    {END}
"""
GATES = {vector: Gate("catch") for vector in (6, 8, 10, 11, 12, 13, 14)}
MODES = (Mode.TRAP, Mode.PARAVIRT, Mode.AUDIT)
RINGS = ("at CPL 1", "at CPL 3")


def far(verb: str, selector: int) -> str:
    """A far jump or call."""
    return f".byte {0xEA if verb == 'jmp' else 0x9A}\n .long 0\n .short {selector}"


def descriptor_words(*values: int) -> str:
    """Stores of descriptors from FRESH_CS on, and a GDT that has them."""
    lines = [
        f"mov esi, {TABLES_PA}\n mov edi, {GDT_PA}\n mov ecx, 12\n cld",
        "rep\n movs dword ptr es:[edi], dword ptr [esi]",
    ]
    for i, value in enumerate(values):
        place = GDT_PA + FRESH_CS + 8 * i
        lines.append(f"mov dword ptr [{place}], {value & 0xFFFFFFFF}")
        lines.append(f"mov dword ptr [{place + 4}], {value >> 32}")
    lines.append(f"mov word ptr [{D + 0x40}], 0xff\n mov dword ptr [{D + 0x42}], {GDT_PA}")
    lines.append(f".byte 0x0f, 0x01, 0x15\n .long {D + 0x40}")
    return "\n".join(lines)


def call_gate(target_pa: int, selector: int, dpl: int = 3) -> int:
    """A 386 call gate."""
    low = selector << 16 | target_pa & 0xFFFF
    return low | (target_pa & 0xFFFF0000 | 0x8C00 | dpl << 13) << 32


def task_descriptor(base: int, kind: int = 0x9) -> int:
    """A TSS of 104 bytes, DPL 3."""
    high = base & 0xFF000000 | (base >> 16) & 0xFF | 0xE000 | kind << 8
    return 0x67 | (base & 0xFFFF) << 16 | high << 32


def task_state(eip: int, cs: int, ss: int) -> str:
    """Stores of a TSS at TASK_PA: flat segments, the stack at STACK_PA."""
    words = {0x20: eip, 0x24: 2, 0x38: STACK_PA, 0x4C: cs, 0x50: ss, 0x48: ss, 0x54: ss}
    return "\n".join(f"mov dword ptr [{TASK_PA + off}], {value}" for off, value in words.items())


def attack(source: str, mode: Mode = Mode.TRAP, options: MachineOptions = SHORT) -> EndedGuest:
    """Run an attack; code after the label `prize` must not be reached at CPL 0."""
    reached: list[int] = []

    def watch(machine: Machine) -> None:
        if "prize:" in source:
            code = guest.assembled().labels["prize"]
            machine.cpu.watch(code, lambda: reached.append(machine.cpu.registers.cpl))

    guest = _Attack(f"{source}\n {CATCH}", GATES, mode=mode, prepare=watch)
    run = guest.run(options)
    assert 0 not in reached
    if run.result.ending is not Ending.ESCAPED:
        assert run.machine.cpu.registers.cpl in (1, 3)
    return run


class _Attack(ModeGuest):
    """A guest that can tell its addresses before it runs."""

    def assembled(self) -> Assembled:
        """The code as it will be."""
        return assemble(PRELUDE + self.source, CODE_PA)


@pytest.mark.parametrize("mode", MODES)
def test_call_gate_finds_no_stack_for_a_lower_ring(mode: Mode) -> None:
    source = f"""
        {INIT if mode.has_rom else ""}
        {descriptor_words(EVERYTHING, call_gate(0, FRESH_CS))}
        mov eax, prize
        mov word ptr [{GDT_PA + ATTACK}], ax
        shr eax, 16
        mov word ptr [{GDT_PA + ATTACK + 6}], ax
        {far("call", ATTACK)}
        {END}
    prize:
        mov dword ptr [{D + 8}], 0x600d
        {END}
    """
    run = attack(source, mode)
    assert run.result.ending is Ending.HALTED
    assert run.word(0) == 1 and run.word(2) == 0, "a fault, and the guest goes on"


def test_process_has_no_way_through_a_call_gate_either() -> None:
    source = f"""
        {descriptor_words(EVERYTHING, call_gate(0, FRESH_CS))}
        mov eax, prize
        mov word ptr [{GDT_PA + ATTACK}], ax
        shr eax, 16
        mov word ptr [{GDT_PA + ATTACK + 6}], ax
        {TO_USER}
    user:
        {far("call", ATTACK | 3)}
    prize:
        {END}
    """
    run = attack(source)
    assert (run.result.ending, run.word(0)) == (Ending.HALTED, 1)


@pytest.mark.parametrize("verb", ["jmp", "call"])
def test_conforming_code_runs_in_the_ring_of_its_caller(verb: str) -> None:
    source = f"""
        {descriptor_words(CONFORMING)}
        mov eax, prize
        mov dword ptr [transfer + 1], eax
    transfer:
        {far(verb, FRESH_CS)}
    prize:
        mov eax, cr0
        mov dword ptr [{D + 8}], eax
        sti
        pushfd
        pop dword ptr [{D + 12}]
        {END}
    """
    run = attack(source)
    assert run.result.ending is Ending.HALTED
    assert run.word(2) & 1 and run.word(3) & 0x200, "privileged instructions are still emulated"
    assert run.result.statistics.traps["cli"] >= 1


def test_call_gate_to_conforming_code_keeps_the_ring() -> None:
    source = f"""
        {descriptor_words(CONFORMING, call_gate(0, FRESH_CS))}
        mov eax, prize
        mov word ptr [{GDT_PA + ATTACK}], ax
        shr eax, 16
        mov word ptr [{GDT_PA + ATTACK + 6}], ax
        {far("call", ATTACK)}
    prize:
        cli
        {END}
    """
    assert attack(source).result.ending is Ending.HALTED


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("through_gate", [False, True], ids=["tss", "task-gate"])
@pytest.mark.parametrize("verb", ["jmp", "call"])
def test_task_switch_to_ring_0_ends_before_its_first_instruction(
    verb: str, through_gate: bool, mode: Mode
) -> None:
    gate = ATTACK << 16 | 0xE500 << 32
    source = f"""
        {INIT if mode.has_rom else ""}
        {descriptor_words(EVERYTHING, task_descriptor(TASK_PA), DATA_EVERYTHING, gate)}
        {task_state(0, FRESH_CS, FRESH_SS)}
        mov eax, prize
        mov dword ptr [{TASK_PA + 0x20}], eax
        {far(verb, TASK_GATE if through_gate else ATTACK)}
        {END}
    prize:
        mov dword ptr [{D + 8}], 0x600d
        {END}
    """
    run = attack(source, mode)
    assert run.result.ending is Ending.ESCAPED
    assert run.word(2) == 0


@pytest.mark.parametrize("mode", MODES)
def test_nested_task_flag_is_no_way_out(mode: Mode) -> None:
    calls = (VmiCall.IRET,)
    back = call_rom(VmiCall.IRET) if mode.has_rom else "iretd"
    source = f"""
        {INIT if mode.has_rom else ""}
        {descriptor_words(EVERYTHING, task_descriptor(TASK_PA, 0xB), DATA_EVERYTHING)}
        {task_state(0, FRESH_CS, FRESH_SS)}
        mov eax, prize
        mov dword ptr [{TASK_PA + 0x20}], eax
        mov dword ptr [0], {ATTACK}
        mov dword ptr [{TABLES_PA + 0xA00}], {ATTACK}
        push 2
        push {KERNEL_CS}
        mov eax, catch
        push eax
        push 0x4002
        popfd
        {back}
        {END}
    prize:
        mov dword ptr [{D + 8}], 0x600d
        {END}
        .p2align 2
        {entry_words(*calls)}
    """
    run = attack(source, mode)
    assert run.result.ending in (Ending.ESCAPED, Ending.HALTED)
    assert run.word(2) == 0


@pytest.mark.parametrize(
    ("stack", "selector"),
    [(0, KERNEL_DS), (STACK_PA, 0), (STACK_PA, KERNEL_CS), (STACK_PA, 0x23), (3, KERNEL_DS)],
)
def test_forged_stack_in_the_tss_ends_in_a_verdict(stack: int, selector: int) -> None:
    source = f"""
        mov dword ptr [{TABLES_PA + 0xA04}], {stack}
        mov dword ptr [{TABLES_PA + 0xA08}], {selector}
        {TO_USER}
    user: ud2
    """
    run = attack(source)
    assert run.result.ending in (Ending.TRIPLE_FAULT, Ending.HALTED)


@pytest.mark.parametrize("base", [0xF0000000, 0xFFFFFFFC, 0xA0000, TIME_PA])
@pytest.mark.parametrize("use", ["mov eax, 8\n mov ds, ax", "int3", far("jmp", 8), "ltr ax"])
def test_descriptor_table_outside_of_memory_ends_in_a_verdict(base: int, use: str) -> None:
    source = f"""
        mov word ptr [{D + 0x40}], 0xffff
        mov dword ptr [{D + 0x42}], {base}
        .byte 0x0f, 0x01, 0x15
        .long {D + 0x40}
        {use}
        {END}
    """
    assert attack(source, Mode.PARAVIRT).result.ending in set(Ending) - {Ending.ESCAPED}


def test_interrupt_table_without_length_is_a_reset() -> None:
    source = f"mov dword ptr [{D}], 0\n .byte 0x0f, 0x01, 0x1d\n .long {D}\n int3\n"
    assert attack(source).result.ending is Ending.RESET_BY_FAULT


def test_undeliverable_double_fault_is_a_triple_fault() -> None:
    source = f"mov dword ptr [{TABLES_PA + 0x100 + 8 * 8 + 4}], 0\n mov esp, 0\n push eax\n ud2"
    source = f"mov dword ptr [{TABLES_PA + 0x100 + 6 * 8}], 0\n {source}"
    source = f"mov dword ptr [{TABLES_PA + 0x100 + 13 * 8}], 0\n {source}"
    assert attack(source).result.ending is Ending.TRIPLE_FAULT


def test_halt_with_interrupts_off_is_the_end() -> None:
    assert attack(END).result.ending is Ending.HALTED


@pytest.mark.parametrize("mode", MODES)
def test_endless_interrupts_end_at_the_limit(mode: Mode) -> None:
    source = f"""
        mov al, 0x13
        out 0x20, al
        mov al, 0x40
        out 0x21, al
        mov al, 0x03
        out 0x21, al
        mov al, 0xfe
        out 0x21, al
        mov al, 0x34
        out 0x43, al
        mov al, 2
        out 0x40, al
        mov al, 0
        out 0x40, al
        {INIT if mode.has_rom else ""}
        sti
    spin: jmp spin
    tick: iretd
    """
    guest = ModeGuest(f"{source}\n {CATCH}", {**GATES, 0x40: Gate("tick")}, mode=mode)
    run = guest.run(MachineOptions(ram_len=8 << 20, limit_ns=5_000_000))
    assert run.result.ending is Ending.LIMIT


ALL_OF_MEMORY = """
    mov edi, 0x400000
    mov eax, 0x87
    cld
fill:
    stosd
    add eax, 0x400000
    cmp edi, 0x401000
    jne fill
    mov eax, 0x10
    mov cr4, eax
    mov eax, 0x400000
    mov cr3, eax
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
"""
"""Page tables that map all addresses, for everybody."""


def test_handler_that_is_nowhere_faults_for_ever_but_not_for_us() -> None:
    source = f"""
        {ALL_OF_MEMORY}
        mov dword ptr [0x400000 + 0x800], 0
        mov eax, cr3
        mov cr3, eax
        mov word ptr [{TABLES_PA + 0x100 + 14 * 8}], 0
        mov word ptr [{TABLES_PA + 0x100 + 14 * 8 + 6}], 0x8000
        mov esp, 0x70000000
        mov eax, dword ptr [0x80000000]
    """
    run = attack(source, options=MachineOptions(ram_len=8 << 20, limit_ns=3_000_000))
    assert run.result.ending is Ending.LIMIT


@pytest.mark.parametrize("mode", [Mode.PARAVIRT, Mode.AUDIT])
@pytest.mark.parametrize("first", [0xA0000, SHARED_PA, TIME_PA, ROM_PA, 0x700000, 0xFFFFF000])
def test_writes_over_everything_hurt_the_guest_alone(first: int, mode: Mode) -> None:
    source = f"""
        {ALL_OF_MEMORY}
        {INIT}
        mov edi, {first}
    wipe:
        mov dword ptr [edi], 0xffffffff
        add edi, 4
        jmp wipe
    """
    run = attack(source, mode)
    assert run.result.ending in (Ending.HALTED, Ending.TRIPLE_FAULT, Ending.LIMIT)


@pytest.mark.parametrize("place", [ROM_PA, ROM_PA + 0x80, TIME_PA, TIME_PA + 8])
def test_write_to_rom_or_clock_is_a_fault_of_the_guest(place: int) -> None:
    run = attack(f"{INIT}\n mov dword ptr [{place}], 0\n {END}", Mode.PARAVIRT)
    assert (run.result.ending, run.word(0)) == (Ending.HALTED, 1)


def test_clock_steps_of_the_guest_cannot_turn_time_back_or_far_ahead() -> None:
    steps = SHARED_PA + Shared.TSC_STEPS
    source = f"""
        {INIT}
        mov dword ptr [{steps}], 5000
        rdtsc
        mov dword ptr [{steps + 4}], 0x7fffffff
        rdtsc
        mov dword ptr [{steps}], 0
        mov dword ptr [{steps + 4}], 0
        rdtsc
        {END}
    """
    run = attack(source, Mode.PARAVIRT)
    assert run.result.ending is Ending.HALTED
    assert 5_000 < run.result.now_ns < 1_000_000


@pytest.mark.parametrize("mode", [Mode.PARAVIRT, Mode.AUDIT])
@pytest.mark.parametrize("seed", range(12))
def test_hypercalls_with_any_arguments_end_in_a_verdict(seed: int, mode: Mode) -> None:
    draw = random.Random(seed)
    lines = []
    for _ in range(30):
        values = [draw.choice((draw.getrandbits(32), draw.randrange(0x8000), D)) for _ in range(3)]
        number = draw.choice((draw.randrange(80), draw.getrandbits(32)))
        vector = draw.choice((Hypercall.CALL, Hypercall.CALL, *Hypercall))
        lines.append("mov eax, {}\n mov edx, {}\n mov ecx, {}".format(*values))
        lines.append(f"mov ebx, {number}\n int {vector}")
    run = attack(f"{INIT}\n {' ; '.join(lines).replace(' ; ', chr(10))}\n {END}", mode)
    assert run.result.ending is not Ending.ESCAPED


SKIP = f"""
skip_coded:
    lea esp, [esp + 4]
skip:
    inc dword ptr ss:[esp]
    inc dword ptr ss:[{D}]
    iretd
"""
"""Handlers that go on at the next byte."""
SKIP_GATES = {vector: Gate("skip", 3) for vector in (0, 1, 3, 4, 5, 6, 7, 16, 19, 0x80)} | {
    vector: Gate("skip_coded") for vector in (10, 11, 12, 13, 14, 17)
}
SENSITIVE = [
    "0f01", "0f00", "0f22", "0f20", "0f23", "0f30", "0f32", "fa", "fb", "9c", "9d", "cf", "cb",
    "8e", "8c", "17", "0fb2", "cd", "0f06", "ea", "9a", "ff", "669c", "660f01", "0fc7", "3e9d",
]  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(8))
def test_any_bytes_as_code_end_in_a_verdict(seed: int, mode: Mode) -> None:
    draw = random.Random(seed)
    code = b"".join(
        bytes.fromhex(draw.choice(SENSITIVE)) + draw.randbytes(draw.randrange(5))
        for _ in range(300)
    )
    data = "\n".join(f".byte {octet}" for octet in code)
    source = f"{INIT if mode.has_rom else ''}\n {data}\n {END}\n {SKIP}"
    run = ModeGuest(source, SKIP_GATES, mode=mode).run(VERY_SHORT)
    assert run.result.ending is not Ending.ESCAPED
    assert run.machine.cpu.registers.cpl in (1, 3)

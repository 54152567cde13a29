# SPDX-License-Identifier: MIT
"""Do breakpoints of debug registers hit where hardware has them, in every mode?

Source of what is right: Intel SDM volume 3, 17.2 and 17.3.1. The same guest under Linux, whose
ptrace uses them, says the same here as in QEMU.
"""

from __future__ import annotations

import pytest

from tests.emu.guest import DATA_PA, TO_USER, EndedGuest, Gate
from tests.emu.processor.test_deliveries import PAGED, SPARE_PA, SWITCH_ON, TABLE_PA
from tests.emu.ring1_guest import INIT, OPTIONS, ModeGuest
from tests.emu.test_interrupts_in_time import TIMER
from vmipatch.choices import Mode
from vmipatch.emu.report import Ending

D = DATA_PA
W = D + 0x800
"""The address that is watched."""
MODES = list(Mode)
RF = 1 << 16
TF = 1 << 8
LENGTHS = {1: 0, 2: 1, 4: 3}
EXECUTE, STORE, ACCESS = 0, 1, 3
DEBUG = f"""
debug:
    push eax
    push ebx
    mov ebx, [{D}]
    inc dword ptr [{D}]
    shl ebx, 4
    mov eax, dr6
    mov [ebx + {D + 0x10}], eax
    mov eax, [esp + 8]
    mov [ebx + {D + 0x14}], eax
    mov eax, [esp + 16]
    mov [ebx + {D + 0x18}], eax
    or dword ptr [esp + 16], {RF}
    xor eax, eax
    mov dr6, eax
    pop ebx
    pop eax
    iretd
"""
"""Notes DR6, EIP and EFLAGS of each hit."""


def switch_on(*wanted: tuple[int, int, int | str]) -> str:
    """Kind, length and address of up to four."""
    lines, dr7 = "", 0
    for number, (kind, length, va) in enumerate(wanted):
        lines += f"mov eax, {va}\n mov dr{number}, eax\n"
        dr7 |= 1 << 2 * number | (kind | LENGTHS[length] << 2) << 16 + 4 * number
    return f"{lines} mov eax, {dr7}\n mov dr7, eax\n"


OFF = "mov eax, 0\n mov dr7, eax\n"


def run(code: str, mode: Mode, gates: dict[int, Gate] | None = None) -> EndedGuest:
    source = f"{INIT if mode.has_rom else ''} {code}\n {OFF} cli\n hlt\n {DEBUG}"
    done = ModeGuest(source, {1: Gate("debug"), **(gates or {})}, mode=mode).run(OPTIONS)
    assert done.result.ending is Ending.HALTED, done.result
    assert not done.result.lacks_breakpoints
    return done


def hits(done: EndedGuest) -> list[tuple[int, int]]:
    """DR6 without its fixed bits, and EIP."""
    return [
        (done.word(4 + 4 * number) ^ 0xFFFF0FF0, done.word(5 + 4 * number))
        for number in range(done.word(0))
    ]


def at(done: EndedGuest, *found: tuple[int, str]) -> list[tuple[int, int]]:
    return [(causes, done.code.labels[label]) for causes, label in found]


@pytest.mark.parametrize("mode", MODES)
def test_instruction_has_its_fault_before_it_is_executed(mode: Mode) -> None:
    """And is executed once, with RF; a loop meets it again."""
    code = f"""
        xor ecx, ecx
        {switch_on((EXECUTE, 1, "target"))}
        mov edx, 3
    again:
        cmp edx, 2
    target:
        inc ecx
        dec edx
        jnz again
        mov [{W}], ecx
    """
    done = run(code, mode)
    assert hits(done) == at(done, *[(1, "target")] * 3)
    assert done.machine.memory.read_u32(W) == 3


STORES = {
    "mov": f"mov dword ptr [{W}], 5",
    "one byte of them": f"mov byte ptr [{W + 3}], 5",
    "the first byte": f"mov dword ptr [{W - 3}], 0x05000000",
    "add": f"add dword ptr [{W}], 5",
    "locked": f"lock add dword ptr [{W}], 5",
    "xchg": f"mov eax, 5\n before: xchg [{W}], eax",
    "string": f"mov edi, {W}\n mov eax, 5\n stosd",
    "by a register": f"mov ebx, {W // 4}\n mov dword ptr [4 * ebx], 5",
    "bit": f"bts dword ptr [{W}], 5",
    "cmpxchg8b": f"mov ebx, 5\n mov ecx, 6\n xor eax, eax\n xor edx, edx\n cmpxchg8b [{W}]",
    "floating point": f"fninit\n fld1\n fstp dword ptr [{W}]",
}


@pytest.mark.parametrize("mode", [Mode.NATIVE, Mode.TRAP, Mode.PARAVIRT])
@pytest.mark.parametrize("name", STORES)
def test_store_is_trapped_after_it_was_made_once(name: str, mode: Mode) -> None:
    code = f"""
        mov dword ptr [{W}], 0
        mov dword ptr [{W + 4}], 0
        {switch_on((STORE, 4, W))}
        {STORES[name]}
    after:
        nop
        mov eax, [{W}]
        mov [{D + 0x700}], eax
    """
    plain = run(code.replace("mov dr7, eax", "nop"), mode)
    done = run(code, mode)
    assert hits(plain) == []
    assert hits(done) == at(done, (1, "after"))
    memory = done.machine.memory
    assert memory.read_u32(W) == plain.machine.memory.read_u32(W) != 0
    assert memory.read_u32(D + 0x700) == memory.read_u32(W)


@pytest.mark.parametrize("mode", MODES)
def test_loads_hit_breakpoints_of_accesses_alone(mode: Mode) -> None:
    code = f"""
        {switch_on((STORE, 4, W), (ACCESS, 2, W + 2), (ACCESS, 1, W))}
        mov eax, [{W}]
    first:
        movzx eax, byte ptr [{W + 1}]
        mov ax, [{W + 2}]
    second:
        mov byte ptr [{W + 1}], 7
    third:
        mov eax, [{W + 4}]
        mov eax, [{W - 4}]
        lea eax, [{W}]
        cmp byte ptr [{W}], 0
    fourth:
        nop
    """
    done = run(code, mode)
    assert hits(done) == at(done, (6, "first"), (2, "second"), (1, "third"), (4, "fourth"))


@pytest.mark.parametrize("mode", MODES)
def test_repeated_store_is_trapped_after_its_round(mode: Mode) -> None:
    code = f"""
        {switch_on((STORE, 4, W + 8))}
        mov edi, {W}
        mov ecx, 5
        mov eax, 3
    repeated:
        rep stosd
    after:
        mov [{D + 0x700}], ecx
    """
    done = run(code, mode)
    assert hits(done) == at(done, (1, "repeated"))
    assert done.machine.memory.read_u32(D + 0x700) == 0
    assert done.machine.memory.read(W, 20) == b"\3\0\0\0" * 5


@pytest.mark.parametrize("mode", [Mode.NATIVE, Mode.PARAVIRT])
def test_stack_is_watched_and_shows_no_step(mode: Mode) -> None:
    code = f"""
        mov esp, {W + 8}
        {switch_on((STORE, 4, W + 4))}
        stc
        pushfd
    first:
        pop eax
        call routine
    routine:
        pop ebx
        push 7
    third:
        mov esp, {W - 0x20}
        mov [{D + 0x700}], eax
    """
    done = run(code, mode)
    assert hits(done) == at(done, (1, "first"), (1, "routine"), (1, "third"))
    flags = done.machine.memory.read_u32(D + 0x700)
    assert (flags & TF, flags & 1) == (0, 1)


@pytest.mark.parametrize("mode", MODES)
def test_flags_are_those_of_the_instructions_before(mode: Mode) -> None:
    code = f"""
        {switch_on((STORE, 4, W))}
        mov eax, 0x7fffffff
        mov ebx, 3
        add eax, 1
        mov [{W}], ebx
    first:
        seto cl
        movzx edx, cl
        mov [{D + 0x700}], edx
        cmp ebx, 4
        mov [{W}], ebx
    second:
        sbb edx, edx
        mov [{D + 0x704}], edx
    """
    done = run(code, mode)
    assert hits(done) == at(done, (1, "first"), (1, "second"))
    memory = done.machine.memory
    assert (memory.read_u32(D + 0x700), memory.read_u32(D + 0x704)) == (1, 0xFFFFFFFF)


@pytest.mark.parametrize("mode", MODES)
def test_breakpoint_is_of_a_linear_address(mode: Mode) -> None:
    """Not of another one that is mapped to the same page."""
    other = 0x300000 + W % 0x1000
    code = f"""
        {PAGED}
        mov dword ptr [{TABLE_PA + 4 * 0x300}], {(W & ~0xFFF) + 7}
        {SWITCH_ON}
        {switch_on((STORE, 4, other))}
        mov dword ptr [{W}], 5
        mov dword ptr [{other}], 6
    after:
        nop
    """
    done = run(code, mode)
    assert hits(done) == at(done, (1, "after"))
    assert done.machine.memory.read_u32(W) == 6


@pytest.mark.parametrize("mode", MODES)
def test_process_is_watched_and_its_faults_come_first(mode: Mode) -> None:
    """A store to a page that is not there: a page fault, and the trap once it is."""
    page = 0x300000
    code = f"""
        {PAGED}
        mov dword ptr [{TABLE_PA + 4 * 0x300}], 0
        {SWITCH_ON}
        {switch_on((STORE, 4, page), (EXECUTE, 1, "target"))}
        {TO_USER}
    user:
        mov dword ptr [{page}], 5
    after:
        jmp target
    target:
        nop
        int 0x30
    fault:
        inc dword ptr [{D + 0x704}]
        mov eax, [{D}]
        mov [{D + 0x708}], eax
        mov dword ptr [{TABLE_PA + 4 * 0x300}], {SPARE_PA | 7}
        add esp, 4
        iretd
    system_call:
        nop
    """
    gates = {14: Gate("fault"), 0x30: Gate("system_call", dpl=3)}
    done = run(code, mode, gates)
    assert hits(done) == at(done, (1, "after"), (2, "target"))
    memory = done.machine.memory
    assert (memory.read_u32(D + 0x704), memory.read_u32(D + 0x708)) == (1, 0)


@pytest.mark.parametrize("mode", [Mode.NATIVE, Mode.TRAP])
def test_single_step_and_breakpoint_come_together(mode: Mode) -> None:
    code = f"""
        {switch_on((STORE, 4, W))}
        pushfd
        or dword ptr [esp], {TF}
        popfd
        mov dword ptr [{W}], 5
    after:
        nop
        pushfd
        and dword ptr [esp], {~TF & 0xFFFFFFFF}
        popfd
        nop
    """
    done = run(code, mode)
    assert hits(done)[0] == at(done, (0x4001, "after"))[0]
    assert {causes for causes, _ in hits(done)[1:]} == {0x4000}


@pytest.mark.parametrize("mode", [Mode.NATIVE, Mode.TRAP, Mode.AUDIT])  # `iret` loads IF there
def test_interrupts_come_all_the_same(mode: Mode) -> None:
    """A thousand hits while a timer ticks: no store is lost or made twice."""
    code = f"""
        {TIMER}
        mov dword ptr [{W}], 0
        {switch_on((STORE, 4, W))}
        sti
        mov ecx, 1000
    again:
        inc dword ptr [{W}]
        mov ebx, 200
    longer:
        dec ebx
        jnz longer
        dec ecx
        jnz again
        cli
        {OFF}
        cli
        hlt
    count:
        inc dword ptr [{D + 0x704}]
        push eax
        mov eax, 0
        mov dr6, eax
        pop eax
        iretd
    tick:
        push eax
        inc dword ptr [{D + 0x708}]
        mov al, 0x20
        out 0x20, al
        pop eax
        iretd
    """
    done = run(code, mode, {1: Gate("count"), 0x40: Gate("tick")})
    memory = done.machine.memory
    assert (memory.read_u32(W), memory.read_u32(D + 0x704)) == (1000, 1000)
    assert memory.read_u32(D + 0x708) > 0


@pytest.mark.parametrize("mode", MODES)
def test_ports_are_not_watched_and_that_is_told(mode: Mode) -> None:
    dr7 = 1 | 2 << 16
    source = f"""
        {INIT if mode.has_rom else ""}
        mov eax, cr4
        or eax, 8
        mov cr4, eax
        mov eax, {dr7}
        mov dr7, eax
        cli
        hlt
    """
    assert ModeGuest(source, {}, mode=mode).run(OPTIONS).result.lacks_breakpoints

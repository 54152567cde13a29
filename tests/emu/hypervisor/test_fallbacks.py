# SPDX-License-Identifier: MIT
"""Is a HLT that stands for an unprivileged instruction, at CPL 1, what that is at CPL 0?

Each form is executed in random states by a guest that leaves registers, flags and stack in memory.
Natively the instructions stand there; in the other guest a HLT covers the first byte of each.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.emu.guest import DATA_PA, KERNEL_CS, STACK_PA, EndedGuest
from tests.emu.ring1_guest import INIT, OPTIONS, ModeGuest, call_rom, run_paravirt
from vmipatch.choices import Mode
from vmipatch.emu.hypervisor.emulate import EMULATIONS
from vmipatch.emu.hypervisor.exits import ExitKind
from vmipatch.emu.report import Ending
from vmipatch.isa.forms import FORMS, Form, WantedModrm
from vmipatch.isa.trapped import take_apart
from vmipatch.vmi.calls import VmiCall

UNPRIVILEGED = [form for form in FORMS if form.is_unprivileged]
GENERAL = ("eax", "ecx", "edx", "ebx", "ebp", "esi", "edi")
BEGUN_WITH, LOADED, NESTED = 0x200ED5, 0x247ED7, 0x4000
"""EFLAGS that a case starts with, and that POPF and IRET load; IRET may not be nested."""
PREFIXES = (b"", b"\x66", b"\x3e", b"\x36\x66", b"\x66\x2e\x66")
RESULTS_PA, RESULT_WORDS = 0x200000, 16
"""The registers as PUSHAD leaves them, EFLAGS, then the stack."""
LOW_PA = 0x5000
"""Memory that 16-bit addresses reach."""
MEMORY_LEN = 0x1000
STATES = 3
TOGETHER = 60
"""Cases of one guest."""

IN_MEMORY: tuple[tuple[bytes, int, bytes, dict[str, int]], ...] = (
    (b"", 0x05, DATA_PA.to_bytes(4, "little"), {}),
    (b"", 0x03, b"", {"ebx": DATA_PA + 1}),
    (b"", 0x45, b"\xf8", {"ebp": DATA_PA + 24}),
    (b"", 0x84, b"\x88\0\0\x10\0", {"eax": 0x20000, "ecx": 8}),
    (b"", 0x44, b"\x24\x04", {}),
    (b"\x67", 0x40, b"\x10", {"ebx": 0xABCD0000 | LOW_PA - 0x20, "esi": 0x12340020}),
)
"""Address-size prefix, ModRM without its middle field, what follows it, and registers: absolute,
by base, byte displacement, scaled index, on the stack, and with 16 bits by BX and SI."""
REGISTERS = (0xC0, 0xC3, 0xC5, 0xC7)


@dataclass(frozen=True, slots=True)
class Encoding:
    """An instruction, and what it wants in registers."""

    code: bytes
    registers: dict[str, int]


def encodings(form: Form) -> Iterator[Encoding]:
    """`form` with the operands and prefixes that change what it does, or might."""
    for prefixes in PREFIXES:
        if form.kind == "iret" and b"\x66" in prefixes:
            continue  # no code of the guest has an EIP of 16 bits
        reg = (form.reg or 0) << 3
        if form.operand is WantedModrm.NONE:
            yield Encoding(prefixes + form.opcode, {})
            continue
        for size, modrm, tail, registers in IN_MEMORY:
            yield Encoding(size + prefixes + form.opcode + bytes((modrm | reg,)) + tail, registers)
        # What SMSW leaves in the upper half of a register is undefined (SDM, volume 2).
        if form.operand is WantedModrm.ANY and (form.kind != "smsw" or b"\x66" in prefixes):
            for modrm in REGISTERS:
                yield Encoding(prefixes + form.opcode + bytes((modrm | reg,)), {})


def case(number: int, form: Form, encoding: Encoding, rng: random.Random) -> str:
    """Assembly of one execution; instructions with a label `covered_` may become a HLT."""
    words = [rng.getrandbits(32) for _ in range(6)]
    registers = {name: rng.getrandbits(32) for name in GENERAL} | encoding.registers
    frame = ""
    if form.kind == "popf":
        words[0] = words[0] & LOADED | 2
    elif form.kind == "iret":
        words[1:3] = words[1] & ~0xFFFF | KERNEL_CS, words[2] & LOADED & ~NESTED | 2
        frame = f"mov eax, behind_{number}\n mov dword ptr [esp], eax"
    elif form.kind == "cpuid":
        registers["eax"] = rng.choice((0, 1, 2, 4, 0x80000000))
    lines = (
        f"mov esp, {STACK_PA - 64}",
        *(f"push {word:#x}" for word in reversed(words)),
        frame,
        f"push {rng.getrandbits(32) & BEGUN_WITH | 2:#x}",
        f"covered_load_{number}: popfd",
        *(f"mov {name}, {value:#x}" for name, value in registers.items()),
        f"covered_case_{number}: .byte {', '.join(map(str, encoding.code))}",
        f"behind_{number}:",
        f"covered_tell_{number}: pushfd",
        "pushad",
        "cld",
        "mov esi, esp",
        f"mov edi, {RESULTS_PA + number * 4 * RESULT_WORDS}",
        f"mov ecx, {RESULT_WORDS}",
        ".byte 0xf3, 0xa5",  # rep movsd, which keystone takes for an SSE instruction
    )
    return "\n".join(lines)


def covered(body: str) -> list[str]:
    return [line.split(":")[0] for line in body.splitlines() if line.startswith("covered_")]


def run_natively(body: str) -> EndedGuest:
    return ModeGuest(f"{body}\n cli\n hlt", mode=Mode.NATIVE).run(OPTIONS)


def run_covered(body: str) -> EndedGuest:
    """The same paravirtually, after a HLT has covered what is not privileged."""
    rows = "\n".join(f".long {name}, 0" for name in covered(body))
    source = f"""
        {INIT}
        mov eax, table
        mov edx, 0
    cover:
        mov ecx, dword ptr [eax]
        mov bl, byte ptr [ecx]
        mov byte ptr [eax + 4], bl
        mov byte ptr [ecx], 0xf4
        add eax, 8
        inc edx
        cmp eax, table_end
        jb cover
        mov eax, table
        {call_rom(VmiCall.SET_FALLBACK)}
        {body}
        {call_rom(VmiCall.SHUTDOWN)}
        .p2align 2
    table:
        {rows}
    table_end:
    """
    return run_paravirt(source, calls=(VmiCall.SET_FALLBACK, VmiCall.SHUTDOWN))


def left_by(run: EndedGuest, cases: int) -> tuple[list[tuple[int, ...]], bytes, bytes]:
    """The words that each case told, and the memory that operands lie in."""
    memory = run.machine.memory
    assert run.result.ending is Ending.HALTED, run.result.details
    words = memoryview(memory.read(RESULTS_PA, cases * 4 * RESULT_WORDS)).cast("I").tolist()
    told = [tuple(words[at : at + RESULT_WORDS]) for at in range(0, len(words), RESULT_WORDS)]
    return told, memory.read(DATA_PA, MEMORY_LEN), memory.read(LOW_PA, MEMORY_LEN)


@pytest.mark.parametrize("form", UNPRIVILEGED, ids=lambda form: form.name.replace(" ", "-"))
def test_every_unprivileged_form_has_an_emulation(form: Form) -> None:
    assert form.kind in EMULATIONS


@pytest.mark.parametrize("form", UNPRIVILEGED, ids=lambda form: form.name.replace(" ", "-"))
def test_hlt_is_the_instruction_that_it_stands_for(form: Form) -> None:
    rng = random.Random(form.name)
    every = [encoding for encoding in encodings(form) for _ in range(STATES)]
    for encoding in every:
        taken = take_apart(encoding.code)
        assert taken is not None and (taken.form, taken.code) == (form, encoding.code)
    for at in range(0, len(every), TOGETHER):
        some = every[at : at + TOGETHER]
        body = "\n".join(case(i, form, encoding, rng) for i, encoding in enumerate(some))
        native, paravirt = run_natively(body), run_covered(body)
        wanted, found = left_by(native, len(some)), left_by(paravirt, len(some))
        for encoding, right, got in zip(some, wanted[0], found[0], strict=True):
            assert got == right, encoding.code.hex(" ")
        assert found[1:] == wanted[1:]
        assert paravirt.result.statistics.traps[ExitKind.FALLBACK] == len(covered(body))

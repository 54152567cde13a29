# SPDX-License-Identifier: MIT
"""Does a guest of random instructions end, in every mode, without an error of ours or CPL 0?

`python -m tests.emu.hypervisor.random_guests MODE FIRST END` runs the guests with these seeds, and
prints a line of JSON for each as it ends: a process, since a guest may take it along.
"""

from __future__ import annotations

import json
import random
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from typing import Final

from tests.emu.guest import DATA_PA, IDT_OFF, TABLES_PA, TO_USER, TSS_OFF, Gate
from tests.emu.ring1_guest import INIT, ModeGuest, entries
from vmipatch.choices import Mode
from vmipatch.emu.machine import Machine
from vmipatch.emu.options import MachineOptions

LIMIT_NS: Final = 400_000
LENGTH: Final = 40
"""Instructions of a guest."""
GATES: Final = {vector: Gate("caught", 3) for vector in (*range(20), 0x20, 0x80)}
CAUGHT: Final = f"""
caught:
    inc dword ptr [{DATA_PA}]
    cmp dword ptr [{DATA_PA}], 60
    ja over
    add dword ptr [esp + 4], 1
    add dword ptr [esp], 1
    test dword ptr [{DATA_PA}], 1
    jz even
    add esp, 4
even:
    iretd
over:
    cli
    hlt
"""
"""Wrong about every second frame, as a guest may be."""
INSTRUCTIONS: Final = (
    "cli", "sti", "pushfd", "popfd", "iretd", "hlt", "clts", "wbinvd", "invd", "cpuid", "rdtsc",
    "rdmsr", "wrmsr", "rdpmc", "pause", "lahf", "sahf", "leave", "retf", "ret", "into", "int3",
    "mov eax, cr0", "mov cr0, eax", "mov eax, cr2", "mov cr2, eax", "mov eax, cr3", "mov cr3, eax",
    "mov eax, cr4", "mov cr4, eax", "mov eax, dr7", "mov dr7, eax", "mov dr0, ecx", "mov eax, dr6",
    "lgdt [{p}]", "lidt [{p}]", "sgdt [{p}]", "sidt [{p}]", "sldt ax", "str ax", "smsw eax",
    "lmsw ax", "lldt ax", "ltr ax", "invlpg [{p}]", "mov ss, ax", "mov ds, ax", "mov fs, ax",
    "push ss", "pop ss", "push ds", "pop es", "lar eax, ecx", "lsl eax, ecx", "verr ax", "verw ax",
    "arpl ax, cx", "in al, {i}", "out {i}, al", "in eax, dx", "out dx, eax", "in ax, dx",
    "int {i}", "call {p}", "jmp {p}", "mov eax, {v}", "mov ecx, {v}", "mov edx, {v}",
    "mov esp, {p}", "mov [{p}], eax", "mov eax, [{p}]", "xchg [{p}], eax", "push {v}",
    ".byte 0xEA\n .long at{n}\n .word 8", "lss eax, [{p}]", "bound eax, [{p}]",
    "xor ecx, ecx\n div ecx",
    "fninit", "fnstenv [{p}]", "fldenv [{p}]", "fxsave [{p}]", "cmpxchg8b [{p}]", "sysenter",
    "ud2", "enter 8, 0", "aaa", "popad", "pushad",
)  # fmt: skip
VALUES: Final = (
    0, 1, 2, 3, 8, 0x10, 0x18, 0x1B, 0x20, 0x23, 0x28, 0x2B, 0x10B, 0x174, 0x1F6, 0x202, 0x20202,
    0x3202, 0x5003, 0x20000000, 0x80000001, 0x80010033, 0xFFFFFFFF, 0x40000080, 0xC0000080,
    TABLES_PA, DATA_PA, TABLES_PA + TSS_OFF, TABLES_PA + IDT_OFF,
)  # fmt: skip
PLACES: Final = (
    DATA_PA, DATA_PA + 3, TABLES_PA, TABLES_PA + 0x2C, TABLES_PA + IDT_OFF + 0x68, 0x101000, 0,
    TABLES_PA + TSS_OFF + 4, TABLES_PA + TSS_OFF + 0x66, 0xFEE00300, 0xFEC00010, 0xA0000, 0xCC000,
    0xF0000, 0xFFFFFFFC, 0x7FFFFE, 0x800000, 0x12F000,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fate:
    """The end of one guest."""

    seed: int
    ending: str
    """Empty after an exception of Python."""
    details: str
    rings: tuple[int, ...]
    """Rings in which an instruction was executed."""
    now_ns: int
    host_s: float


def source(seed: int, mode: Mode) -> str:
    """The text of one guest."""
    dice = random.Random(seed)
    lines = []
    for number in range(LENGTH):
        lines.append(f"at{number}:")
        if dice.random() < 0.1:
            lines.append(".byte " + ", ".join(str(dice.randrange(256)) for _ in range(4)))
        elif dice.random() < 0.05 and mode in (Mode.PARAVIRT, Mode.AUDIT):
            lines.append(f"mov ebx, {dice.choice(tuple(entries().values()))}\n call ebx")
        else:
            chosen = dice.choice(INSTRUCTIONS)
            lines.append(
                chosen.format(
                    p=dice.choice(PLACES), i=dice.randrange(256), v=dice.choice(VALUES),
                    n=dice.randrange(LENGTH),
                )
            )  # fmt: skip
    start = INIT if mode in (Mode.PARAVIRT, Mode.AUDIT) and dice.random() < 0.8 else ""
    ring = TO_USER + "user:\n" if dice.random() < 0.4 else ""
    return "\n".join((start, ring, *lines, "cli\n hlt", CAUGHT))


def fate(seed: int, mode: Mode) -> Fate:
    """Run one guest."""
    rings: set[int] = set()
    made: list[Machine] = []

    def prepare(machine: Machine) -> None:
        made.append(machine)
        registers = machine.cpu.registers
        # Code is translated for the ring in which it is about to be executed.
        machine.cpu.on_translated(lambda va, length: rings.add(registers.cpl))

    options = MachineOptions(ram_len=8 << 20, limit_ns=LIMIT_NS)
    begun_s = time.monotonic()
    try:
        run = ModeGuest(source(seed, mode), GATES, prepare=prepare, mode=mode).run(options)
        ending, details = run.result.ending.name, run.result.details
    except Exception:
        ending, details = "", traceback.format_exc()
    now_ns = made[0].clock.now_ns if made else 0
    return Fate(seed, ending, details, tuple(sorted(rings)), now_ns, time.monotonic() - begun_s)


def main(mode: str, first: str, end: str) -> None:
    """Tell the fates of the guests [first, end)."""
    for seed in range(int(first), int(end)):
        print(json.dumps(asdict(fate(seed, Mode[mode]))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

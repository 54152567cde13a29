# SPDX-License-Identifier: MIT
"""How does a test run a few instructions as a kernel? With flat tables around its assembly source.

The source begins with interrupts off, GDT, IDT and TSS loaded and a stack; there is a gate
for each vector that the test names. `hlt` with interrupts off ends the run.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tests.support.elfbuilder import DATA, TEXT, ElfBuilder
from vmipatch.emu.build import MachineSpec, build_machine
from vmipatch.emu.loader import Boot
from vmipatch.emu.machine import Machine
from vmipatch.emu.options import MachineOptions
from vmipatch.emu.processor.memory import GuestMemory
from vmipatch.emu.report import RunResult
from vmipatch.emu.terminal import Silence
from vmipatch.isa.assemble import Assembled, assemble

CODE_PA = 0x101000
TABLES_PA = 0x110000
DATA_PA = 0x120000
"""Free for the guest's results."""
USER_STACK_PA = 0x128000
STACK_PA = 0x12F000
IDT_OFF, TSS_OFF, GDT_REGISTER_OFF, IDT_REGISTER_OFF = 0x100, 0xA00, 0xB00, 0xB10
TABLES_LEN = 0x1000

KERNEL_CS, KERNEL_DS, USER_CS, USER_DS, TSS = 0x08, 0x10, 0x1B, 0x23, 0x28
SECOND_NS = 1_000_000_000

PRELUDE = f"""
    lgdt [{TABLES_PA + GDT_REGISTER_OFF}]
    lidt [{TABLES_PA + IDT_REGISTER_OFF}]
    mov eax, {KERNEL_DS}
    mov ss, ax
    mov ds, ax
    mov es, ax
    mov esp, {STACK_PA}
    mov eax, {TSS}
    ltr ax
    push {KERNEL_CS}
    mov eax, begin
    push eax
    retf
begin:
"""

TO_USER = f"""
    push {USER_DS}
    push {USER_STACK_PA}
    push 0x202
    push {USER_CS}
    mov eax, user
    push eax
    iretd
"""
"""Continue at `user`, at CPL 3 with interrupts on."""


@dataclass(frozen=True, slots=True)
class Gate:
    """Where an interrupt goes."""

    label: str
    dpl: int = 0
    present: bool = True


@dataclass(slots=True)
class EndedGuest:
    """A guest that has come to its end."""

    machine: Machine
    result: RunResult
    code: Assembled
    heard: bytes

    def word(self, index: int) -> int:
        """A word that the guest left at DATA_PA."""
        return self.machine.memory.read_u32(DATA_PA + 4 * index)


@dataclass(slots=True)
class Guest:
    """A program to run; `prepare` gets the machine before it starts."""

    source: str
    gates: Mapping[int, Gate] = field(default_factory=dict)
    io_map: bytes = b""
    prepare: Callable[[Machine], None] = lambda machine: None
    idt_limit: int = 0x7FF
    memory: GuestMemory | None = None
    prelude: str = PRELUDE

    def run(self, options: MachineOptions | None = None) -> EndedGuest:
        """Run to the end; a guest that does not stop is switched off after a second."""
        options = options or MachineOptions(ram_len=8 << 20, limit_ns=SECOND_NS)
        code = assemble(self.prelude + self.source, CODE_PA)
        builder = ElfBuilder(entry=CODE_PA, physical_offset=0)
        builder.section(".text", CODE_PA, code.code, TEXT, align=4096)
        builder.section(".data", TABLES_PA, self._tables(code), DATA, align=4096)
        terminal = Silence()
        machine = self.build(terminal, options)
        self.prepare(machine)
        result = machine.run(Boot(builder.image()))
        return EndedGuest(machine, result, code, bytes(terminal.heard))

    def build(self, terminal: Silence, options: MachineOptions) -> Machine:
        """The machine that runs it."""
        return build_machine(MachineSpec(options=options), terminal, self.memory)

    def _tables(self, code: Assembled) -> bytes:
        tables = bytearray(TABLES_LEN)
        tss_pa, tss_limit = TABLES_PA + TSS_OFF, 0x67 + len(self.io_map)
        descriptors = (
            0,
            0x00CF9B000000FFFF,
            0x00CF93000000FFFF,
            0x00CFFB000000FFFF,
            0x00CFF3000000FFFF,
            tss_limit | (tss_pa & 0xFFFFFF) << 16 | 0x89 << 40 | (tss_pa >> 24) << 56,
        )
        struct.pack_into("<6Q", tables, 0, *descriptors)
        for vector, gate in self.gates.items():
            handler_pa = code.labels[gate.label]
            rights = 0x8E00 * gate.present | gate.dpl << 13 | 0x0E00
            low = handler_pa & 0xFFFF | KERNEL_CS << 16
            high = handler_pa & 0xFFFF0000 | rights
            struct.pack_into("<2I", tables, IDT_OFF + 8 * vector, low, high)
        struct.pack_into("<2I", tables, TSS_OFF + 4, STACK_PA, KERNEL_DS)
        struct.pack_into("<H", tables, TSS_OFF + 0x66, 0x68)
        tables[TSS_OFF + 0x68 : TSS_OFF + 0x68 + len(self.io_map)] = self.io_map
        struct.pack_into("<HI", tables, GDT_REGISTER_OFF, 0x2F, TABLES_PA)
        struct.pack_into("<HI", tables, IDT_REGISTER_OFF, self.idt_limit, TABLES_PA + IDT_OFF)
        return bytes(tables)

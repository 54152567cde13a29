# SPDX-License-Identifier: MIT
"""What if a guest calls the ROM with nonsense? It may harm itself, and nobody else."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tests.emu.guest import (
    CODE_PA,
    DATA_PA,
    KERNEL_CS,
    STACK_PA,
    TABLES_LEN,
    TABLES_PA,
    Gate,
)
from tests.emu.ring1_guest import INIT, ModeGuest, entries, paravirt_of
from vmipatch.emu.machine import Machine, MachineOptions
from vmipatch.emu.modes import Mode
from vmipatch.emu.registers import SegReg
from vmipatch.emu.report import Ending
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.shared import CYCLES_HZ, ROM_PA, SHARED_PA, TIME_PA
from vmipatch.vmi.table import ROW_OF

C = VmiCall
SAMPLE, CAMPAIGN = 400, 1_000_000
PATIENCE_NS = 5_000_000
GUEST_END_PA = 0x180000
WALKER_BITS = 0x60
"""Accessed and Dirty, which a page walker may set in whatever the guest calls a page table."""
SOURCE = f"""
    {INIT}
    cli
    hlt
returned:
    cli
    hlt
    jmp returned
failed:
    cli
    hlt
    jmp failed
"""
GATES = {vector: Gate("failed") for vector in range(32)}
GPRS = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")
RANGE = {
    C.GET_INTERRUPT_MASK: {0, 0x200},
    C.CANCEL_ALARM: {0, 1},
    C.WALLCLOCK_UPDATED: {0},
    C.GET_CYCLE_FREQUENCY: {CYCLES_HZ},
}
"""What EAX can be."""


class Playground:
    """A paravirtual guest that is put back to the same place before each call."""

    def __init__(self) -> None:
        guest = ModeGuest(SOURCE, GATES, mode=Mode.PARAVIRT)
        run = guest.run(MachineOptions(ram_len=4 << 20, limit_ns=10**9))
        assert run.result.ending is Ending.HALTED
        self.machine: Machine = run.machine
        self.privilege = paravirt_of(self.machine)
        self.returned_va = run.code.labels["returned"]
        registers = self.machine.cpu.registers
        self._segments = {which: registers.segment(which) for which in SegReg}
        self._tables = registers.gdtr, registers.idtr, registers.ldtr
        self._task = self.privilege._vcpu.task
        self._controls = registers.cr0, registers.cr4
        self._memory = bytes(self.machine.memory.octets[:GUEST_END_PA])
        self.rom = bytes(self.machine.memory.octets[ROM_PA:SHARED_PA])

    def restore(self) -> None:
        """Everything of the guest as it was behind VMI_Init."""
        machine, privilege = self.machine, self.privilege
        registers, vcpu, context = machine.cpu.registers, privilege._vcpu, privilege._context
        registers.cr0, registers.cr4 = self._controls
        registers.cr3 = registers.cr2 = 0
        for which, segment in self._segments.items():
            registers.set_segment(which, segment)
        registers.gdtr, registers.idtr, registers.ldtr = self._tables
        vcpu.load_task(self._task)
        vcpu.iopl = 0
        registers.eflags = 0x202
        vcpu.enter(1)
        context.halted, context.shadow_va, context.paging_left = False, None, False
        context.mmu.forget()
        octets = machine.memory.octets
        for start, end in ((ROM_PA, TIME_PA), (CODE_PA, TABLES_PA + TABLES_LEN)):
            if octets[start:end] != self._memory[start:end]:
                octets[start:end] = self._memory[start:end]
                if start == CODE_PA:
                    machine.cpu.flush_code()
        vcpu.show()

    def call(self, call: VmiCall, values: dict[str, int], stack: list[int]) -> Ending:
        """One call with these registers; how it ended."""
        machine, registers = self.machine, self.machine.cpu.registers
        for name, value in values.items():
            setattr(registers, name, value)
        words = [self.returned_va, *stack]
        registers.esp = STACK_PA - 4 * len(words)
        for index, word in enumerate(words):
            machine.memory.write_u32(registers.esp + 4 * index, word)
        registers.eip = entries()[call]
        machine.options = replace(machine.options, limit_ns=machine.clock.now_ns + PATIENCE_NS)
        return machine.resume().ending


def nonsense(dice: random.Random) -> int:
    """A number: any, a small one, an address of the guest's, a selector."""
    kind = dice.randrange(5)
    if kind == 0:
        return dice.randrange(1 << 32)
    if kind == 1:
        return dice.randrange(0x200)
    if kind == 2:
        return DATA_PA + dice.randrange(0x1000)
    if kind == 3:
        return dice.randrange(4 << 20)
    return dice.choice((0, 1, 1 << 31, 0xFFFFFFFF, ROM_PA, SHARED_PA, TIME_PA, KERNEL_CS, 0x28))


def play(seed: int, calls: int) -> dict[Ending, int]:
    """Make so many calls; how they ended, by ending."""
    dice = random.Random(seed)
    known = sorted(entries())
    playground = Playground()
    endings: dict[Ending, int] = {}
    for _ in range(calls):
        call = dice.choice(known)
        values = {name: nonsense(dice) for name in GPRS if name != "esp"}
        stack = [nonsense(dice) for _ in range(6)]
        playground.restore()
        what = f"{call.name} {values} {stack}"
        ending = playground.call(call, values, stack)
        endings[ending] = endings.get(ending, 0) + 1
        judge(playground, call, values, ending, what)
        if not playground.privilege.is_paravirtual:
            playground = Playground()
    return endings


def judge(
    playground: Playground, call: VmiCall, values: dict[str, int], ending: Ending, what: str
) -> None:
    """The promises of the hypervisor hold, and the entry's if it came back."""
    machine = playground.machine
    registers = machine.cpu.registers
    assert ending is not Ending.ESCAPED, what
    assert registers.cpl != 0 and registers.task_limit == 0, what
    rom = bytes(machine.memory.octets[ROM_PA:SHARED_PA])
    if rom != playground.rom:
        changed = {a ^ b for a, b in zip(rom, playground.rom, strict=True)}
        assert all(not bits & ~WALKER_BITS for bits in changed), what
    at = registers.eip - 2  # behind cli and hlt
    if ending is not Ending.HALTED or at != playground.returned_va or call in (C.IRET, C.SYSEXIT):
        return
    kept = [name for name in values if name not in ROW_OF[call].results]
    if call is not C.HALT:  # handlers of what came meanwhile are the guest's
        assert all(getattr(registers, name) == values[name] for name in kept), what
    if call in RANGE:
        assert registers.eax in RANGE[call], what


def test_nonsense_harms_the_guest_alone() -> None:
    endings = play(1, SAMPLE)
    assert endings[Ending.HALTED] > SAMPLE // 3, "many calls come back"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_million_calls_with_nonsense_harm_the_guest_alone(seed: int) -> None:
    play(seed + 100, CAMPAIGN // 10)

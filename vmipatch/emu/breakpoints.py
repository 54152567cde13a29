# SPDX-License-Identifier: MIT
"""How do breakpoints of the debug registers hit? Those of instructions in Unicorn, of data here.

Unicorn knows breakpoints of instructions at any CPL; the registers are loaded for it as `mov` to a
debug register at CPL 0 does. Of data it knows none: before an access that is watched the CPU stops
(`data_watches`), executes the instruction alone, and gets its debug exception then, a trap as on
hardware. An instruction that faults gets its fault and no exception.

Ports are not watched (CR4.DE).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from vmipatch.emu.clock import Clock
from vmipatch.emu.privilege import Privilege
from vmipatch.emu.processor.bits import Flag, HFlag
from vmipatch.emu.processor.callbacks import Exit
from vmipatch.emu.processor.cpu import Cpu
from vmipatch.emu.processor.data_watches import DataWatch
from vmipatch.emu.processor.debug_registers import (
    SINGLE_STEP,
    Breakpoint,
    BreakpointKind,
    breakpoints,
)
from vmipatch.emu.processor.events import Event, Vector
from vmipatch.emu.processor.paging import Mmu
from vmipatch.emu.processor.segment import SegReg
from vmipatch.isa.accesses import memory_accesses
from vmipatch.isa.trapped import MAX_LEN

_TF: Final = int(Flag.TF)
_CS32: Final = int(HFlag.CS32)
_PUSHF: Final = b"\x9c"
_OPERAND_SIZE: Final = b"\x66"


class Owner(Protocol):
    """The machine."""

    @property
    def privilege(self) -> Privilege:
        """Of the processor that runs."""


class Breakpoints:
    """Those of the processor that is in the engine."""

    def __init__(self, cpu: Cpu, mmu: Mmu, clock: Clock, owner: Owner) -> None:
        self._cpu = cpu
        self._registers = cpu.registers
        self._mmu = mmu
        self._clock = clock
        self._owner = owner
        self._data: tuple[Breakpoint, ...] = ()
        self._is_hooked = False
        self._hits = 0
        """Bits of DR6 of the instruction that the CPU has stopped before."""
        self.steps = False
        """Whether the CPU executes that instruction now."""
        self._had_tf = False
        self.lacks = False
        """Whether the guest has switched on one that the machine does not have."""

    def load(self, registers: Sequence[int]) -> None:
        """DR0 to DR7 of the guest are these now. From a callback or between two runs."""
        wanted = breakpoints(registers)
        knows = self._cpu.load_debug_registers(registers)
        data = tuple(
            each for each in wanted if each.kind in (BreakpointKind.STORE, BreakpointKind.ACCESS)
        )
        if any(each.kind is BreakpointKind.PORT for each in wanted) or (wanted and not knows):
            self.lacks = True
        if not knows or not (data or self._data):
            return
        self._data = data
        self._cpu.watch_data(
            [DataWatch(e.va, e.length, e.kind is BreakpointKind.ACCESS, True) for e in data],
            self._is_hit,
        )
        if not self._is_hooked:
            self._cpu.stop()  # the hooks are to be there before the next instruction

    @property
    def is_hit(self) -> bool:
        """Whether the CPU has stopped before an access that is watched."""
        return bool(self._hits)

    def settle(self) -> None:
        """Between two runs of the CPU: the hooks that are wanted, and the exception of a hit."""
        if self._data and not self._is_hooked:
            self._is_hooked = True
            self._cpu.hook_data()
        hits, self._hits = self._hits, 0
        if hits:
            registers = self._registers
            registers.debug_status |= hits | SINGLE_STEP * self._had_tf
            self._owner.privilege.deliver(Event.exception(Vector.DEBUG))

    def on_interrupt(self, number: int) -> bool:
        """An event while `steps`: whether it is the end of the step, and nothing else."""
        registers, cpu = self._registers, self._cpu
        self.steps = False
        if not self._had_tf:
            registers.raw_eflags &= ~_TF
        software = cpu.is_software
        cpu.stop()
        if number == Vector.DEBUG and not software:
            cpu.take_exception()
            return True
        if not software:
            self._hits = 0  # it has not been executed
        return False

    def _is_hit(self, is_store: bool) -> bool:
        """Whether the instruction at EIP makes an access that is watched; stop before it then."""
        registers = self._registers
        bits = 32 if registers.hflags & _CS32 else 16
        for access in memory_accesses(self._mmu.peek(registers.code_va, MAX_LEN), bits):
            base_va = registers.segment(SegReg(access.place.segment)).base
            for each in self._data:
                counts = access.stores or (access.loads and each.kind is BreakpointKind.ACCESS)
                if counts and access.overlaps(base_va, registers.gpr, each.va, each.length):
                    self._hits |= 1 << each.number
        if self._hits:
            self._cpu.stop()
        return bool(self._hits)

    def step(self) -> Exit:
        """Execute the instruction at EIP without a look at its accesses; why the CPU came back."""
        cpu, registers, privilege = self._cpu, self._registers, self._owner.privilege
        privilege.take_promises_back()
        status, code = registers.debug_status, self._mmu.peek(registers.code_va, 2)
        self._had_tf = bool(registers.raw_eflags & _TF)
        registers.raw_eflags |= _TF
        cpu.deliver_alone(False)
        cpu.look_at_data(False)
        self._clock.grant_slice()
        self.steps = True
        exit_ = cpu.run()
        cpu.look_at_data(bool(self._data))
        if self.steps:  # the instruction has left the CPU another way
            self.steps = False
            self._hits = 0
            if not self._had_tf:
                registers.raw_eflags &= ~_TF
        registers.debug_status = status
        if self._hits and not self._had_tf and code.lstrip(_OPERAND_SIZE)[:1] == _PUSHF:
            self._hide_step()
        privilege.after_devices()
        return exit_

    def _hide_step(self) -> None:
        """PUSHF has pushed the TF of the step."""
        va = self._registers.stack_va(self._registers.esp)
        self._mmu.write_u32(va, self._mmu.read_u32(va) & ~_TF)

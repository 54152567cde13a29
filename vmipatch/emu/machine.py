# SPDX-License-Identifier: MIT
"""How does a machine run? Memory, CPU, clock and board, and the loop that drives them.

The CPU runs in slices that end at the next event of a device. Everything that comes out of it is
counted; nothing depends on the host's clock, so two runs of the same guest are the same to the last
byte of memory.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from vmipatch.emu.board import Board
from vmipatch.emu.calibration import check_unicorn
from vmipatch.emu.clock import CELLS_LEN, Clock
from vmipatch.emu.cpu import Cpu, Exit
from vmipatch.emu.cpuid import cpuid_leaf
from vmipatch.emu.events import Event, Vector
from vmipatch.emu.loader import Boot, load
from vmipatch.emu.local_apic import BASE_PA, LENGTH
from vmipatch.emu.memory import GuestMemory
from vmipatch.emu.native import NativePrivilege
from vmipatch.emu.paging import Mmu
from vmipatch.emu.privilege import Privilege
from vmipatch.emu.report import Call, Ending, GuestEnded, RunResult, Statistics

DEFAULT_RAM_LEN: Final = 256 << 20
Tracer = Callable[[int, str], None]
"""Gets the virtual time in nanoseconds and what happened."""


class Terminal(Protocol):
    """What is at the other end of the serial line."""

    def send(self, value: int) -> None:
        """A byte from the guest."""

    def poll(self, idle: bool) -> bytes:
        """Bytes for the guest, if there are any; may wait a moment if the guest is idle.

        Raises GuestEnded when the user has had enough.
        """


@dataclass(frozen=True, slots=True)
class MachineOptions:
    """What can be chosen of a machine."""

    ram_len: int = DEFAULT_RAM_LEN
    pae: bool = True
    apic: bool = False
    """Whether CPUID shows the local APIC."""
    limit_ns: int | None = None
    """Virtual time after which the machine is switched off."""


class Silence:
    """A terminal that keeps what it hears and says nothing."""

    def __init__(self) -> None:
        self.heard = bytearray()

    def send(self, value: int) -> None:
        """Keep the byte."""
        self.heard.append(value)

    def poll(self, idle: bool) -> bytes:
        """Nothing."""
        return b""


class Machine:
    """One PC. It runs once."""

    def __init__(
        self,
        terminal: Terminal,
        options: MachineOptions | None = None,
        *,
        privilege: Callable[[Machine], Privilege] = NativePrivilege,
        memory: GuestMemory | None = None,
        time_page: memoryview | None = None,
        trace: Tracer | None = None,
    ) -> None:
        """`memory` is made unless given; `time_page`: where the guest reads a copy of the clock.

        Raises EnvironmentProblem if this host cannot emulate.
        """
        check_unicorn()
        self.options = options or MachineOptions()
        self.terminal = terminal
        self.trace = trace
        self.on_delivery: Callable[[Event], None] | None = None
        """Is told of each exception and software interrupt, and of each external interrupt of a
        deprivileged guest, before the guest's handler is entered."""
        self.statistics = Statistics()
        self.memory = GuestMemory(self.options.ram_len) if memory is None else memory
        cells = bytearray(CELLS_LEN)
        self.clock = Clock(memoryview(cells), time_page)
        self.board = Board(self.clock, terminal.send, self._reset)
        copy_va = None if time_page is None else _host_va(time_page)
        self.cpu = Cpu(self.memory, _host_va(cells), self, copy_va=copy_va)
        self.mmu = Mmu(self.memory, self.cpu.registers)
        self.privilege = privilege(self)
        self._refused: tuple[int, ...] | None = None
        self._refused_with = Vector.PROTECTION

    def run(self, boot: Boot) -> RunResult:
        """Load a kernel and run it until the machine ends.

        Raises InputNotUnderstood if the kernel does not fit, CpuFailed if the emulator does not.
        """
        load(self.memory, boot)
        self.privilege.start(boot)
        return self.resume()

    def resume(self) -> RunResult:
        """Run on to the next end, from wherever the registers are."""
        try:
            while True:
                self._cycle()
        except GuestEnded as ended:
            self._note(str(ended))
            return self._result(ended)

    def _cycle(self) -> None:
        """Time passes for the devices, then the CPU runs until there is a reason to look again."""
        privilege, clock = self.privilege, self.clock
        privilege.before_devices()
        self._check_limit()
        clock.run_due()
        if received := self.terminal.poll(False):
            self.board.uart.receive(received)
        privilege.after_devices()
        privilege.before_run()
        clock.grant_slice()
        exit_ = self.cpu.run()
        self.statistics.exits[exit_] += 1
        if exit_ is Exit.HALT:
            self.idle()
        elif exit_ is Exit.WRITE_PROTECTED:
            self.privilege.deliver(Event.exception(Vector.PROTECTION))
        elif exit_ is Exit.NO_CODE:
            # Where no memory is, the bus reads ones, and ff ff is no instruction.
            self.privilege.deliver(Event.exception(Vector.UNDEFINED))
        elif exit_ is Exit.NO_MEMORY:
            raise GuestEnded(Ending.UNSUPPORTED, "an address beyond the bus")
        if self._refused is not None:
            self._refuse()

    def idle(self) -> None:
        """The guest waits for an interrupt: skip the time until there is one."""
        privilege, clock = self.privilege, self.clock
        privilege.before_devices()
        if not privilege.interrupts_enabled():
            raise GuestEnded(Ending.HALTED, "hlt with interrupts off")
        while self.board.interrupts.pending_line() is None:
            self._check_limit()
            if received := self.terminal.poll(True):
                self.board.uart.receive(received)
            elif not clock.sleep():
                raise GuestEnded(Ending.HALTED, "hlt with nothing left that could wake the CPU")
            clock.run_due()

    def _check_limit(self) -> None:
        limit_ns = self.options.limit_ns
        if limit_ns is not None and self.clock.now_ns >= limit_ns:
            raise GuestEnded(Ending.LIMIT)

    def delivered(self, event: Event) -> None:
        """The guest's handler for `event` is about to be entered."""
        self.statistics.vectors[event.vector] += 1
        if self.on_delivery is not None:
            self.on_delivery(event)

    def on_interrupt(self, number: int) -> None:
        """An exception, a software interrupt or an intercept."""
        self.statistics.calls[Call.INTERRUPT] += 1
        if self.trace is not None:
            self._note(f"interrupt {number:#x}")
        self.privilege.on_interrupt(number)

    def on_invalid(self) -> None:
        """An undefined instruction."""
        self.statistics.calls[Call.INVALID] += 1
        if self.trace is not None:
            self._note("undefined instruction")
        self.privilege.deliver(Event.exception(Vector.UNDEFINED))

    def on_in(self, port: int, size: int) -> int:
        """A port is read."""
        self.statistics.calls[Call.IN] += 1
        privilege = self.privilege
        if not privilege.may_use_port(port, size):
            self._remember_refusal()
            return 0
        privilege.before_devices()
        value = self.board.bus.read(port, size)
        privilege.after_devices()
        if self.trace is not None:
            self._note(f"in {port:#x} -> {value:#0{2 + 2 * size}x}")
        return value

    def on_out(self, port: int, size: int, value: int) -> None:
        """A port is written."""
        self.statistics.calls[Call.OUT] += 1
        privilege = self.privilege
        if not privilege.may_use_port(port, size):
            self._remember_refusal()
            return
        if self.trace is not None:
            self._note(f"out {port:#x} <- {value:#0{2 + 2 * size}x}")
        privilege.before_devices()
        self.board.bus.write(port, size, value)
        privilege.after_devices()

    def on_cpuid(self) -> None:
        """`cpuid`, at any CPL."""
        self.statistics.calls[Call.CPUID] += 1
        registers = self.cpu.registers
        leaf = cpuid_leaf(registers.eax, pae=self.options.pae, apic=self.options.apic)
        registers.eax, registers.ebx = leaf.eax, leaf.ebx
        registers.ecx, registers.edx = leaf.ecx, leaf.edx

    def on_rdtsc(self) -> None:
        """`rdtsc`, where CR4.TSD allows it."""
        self.statistics.calls[Call.RDTSC] += 1
        now = self.clock.read_tsc()
        registers = self.cpu.registers
        registers.eax, registers.edx = now, now >> 32

    def on_fast_call(self) -> None:
        """`sysenter` or `syscall`: the CPU that is presented has neither."""
        self.statistics.calls[Call.INVALID] += 1
        self._remember_refusal(Vector.UNDEFINED)

    def on_hole_read(self, pa: int, size: int) -> int:
        """The local APIC, or a bus without a device, which reads as ones."""
        self.statistics.calls[Call.HOLE_READ] += 1
        if _in_apic(pa):
            return self.board.apic.read(pa - BASE_PA)
        return (1 << 8 * size) - 1

    def on_hole_write(self, pa: int, size: int, value: int) -> None:
        """Nobody listens but the local APIC."""
        self.statistics.calls[Call.HOLE_WRITE] += 1
        if _in_apic(pa):
            self.privilege.before_devices()
            self.board.apic.write(pa - BASE_PA, value)
            self.clock.end_slice()  # a stop right here would repeat the write

    def _reset(self) -> None:
        raise GuestEnded(Ending.RESET)

    def _remember_refusal(self, vector: Vector = Vector.PROTECTION) -> None:
        """Unicorn will complete the instruction all the same: keep what it changes."""
        registers = self.cpu.registers
        self._refused = (registers.eip, *(registers.gpr(i) for i in range(8)))
        self._refused_with = vector
        self.cpu.stop()

    def _refuse(self) -> None:
        assert self._refused is not None, "asked before"
        registers = self.cpu.registers
        registers.eip, *general = self._refused
        self._refused = None
        for number, value in enumerate(general):
            registers.set_gpr(number, value)
        self.privilege.deliver(Event.exception(self._refused_with))

    def _note(self, what: str) -> None:
        if self.trace is not None:
            registers = self.cpu.registers
            self.trace(self.clock.now_ns, f"{registers.cpl}:{registers.eip:08x} {what}")

    def _result(self, ended: GuestEnded) -> RunResult:
        registers = self.cpu.registers
        return RunResult(
            ending=ended.ending,
            details=ended.details,
            statistics=self.statistics,
            blocks=self.cpu.counter.blocks,
            executed_len=self.clock.executed_len,
            now_ns=self.clock.now_ns,
            place=f"EIP {registers.eip:#x} at CPL {registers.cpl}",
            plain_because=self.cpu.plain_because,
        )


def _in_apic(pa: int) -> bool:
    return BASE_PA <= pa < BASE_PA + LENGTH


def _host_va(octets: bytearray | memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(octets))

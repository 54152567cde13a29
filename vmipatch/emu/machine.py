# SPDX-License-Identifier: MIT
"""How does a machine run? Memory, CPU, clock and board, and the loop that drives them.

The CPU runs in slices that end at the next event of a device. Everything that comes out of it is
counted; nothing depends on the host's clock, so two runs of the same guest are the same to the last
byte of memory.
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from vmipatch.emu.breakpoints import Breakpoints
from vmipatch.emu.clock import CELLS_LEN, MAX_SLICE, Clock
from vmipatch.emu.devices.board import Board
from vmipatch.emu.holes import is_device, read_hole, write_hole
from vmipatch.emu.hooks import AttachedHooks, Hooks
from vmipatch.emu.loader import Boot, load
from vmipatch.emu.options import MachineOptions
from vmipatch.emu.parts import MachineParts
from vmipatch.emu.privilege import Privilege
from vmipatch.emu.process_ports import ProcessPorts
from vmipatch.emu.processor.calibration import check_unicorn
from vmipatch.emu.processor.callbacks import Exit
from vmipatch.emu.processor.cpu import Cpu
from vmipatch.emu.processor.cpuid import cpuid_leaf
from vmipatch.emu.processor.events import Event, Vector
from vmipatch.emu.processor.memory import GuestMemory
from vmipatch.emu.processor.paging import Mmu
from vmipatch.emu.processors import Processor, Processors
from vmipatch.emu.refusal import Refusal
from vmipatch.emu.report import Call, Ending, GuestEnded, RunResult, Statistics
from vmipatch.emu.schedule import ProcessorState
from vmipatch.emu.terminal import Terminal
from vmipatch.emu.watchdog import raising_at


class Machine:
    """One PC. It runs once."""

    def __init__(
        self,
        terminal: Terminal,
        options: MachineOptions,
        privilege: Callable[[MachineParts], Privilege],
        *,
        memory: GuestMemory | None = None,
        time_page: memoryview | None = None,
    ) -> None:
        """`memory` is made unless given; `time_page`: where the guest reads a copy of the clock.

        Raises EnvironmentProblem if this host cannot emulate.
        """
        check_unicorn()
        self.options = options
        self.terminal = terminal
        self.memory = GuestMemory(options.ram_len) if memory is None else memory
        cells = bytearray(CELLS_LEN)
        self.clock = Clock(memoryview(cells), time_page)
        self.board = Board(
            self.clock, terminal.send, self._reset, self._switch_off, options.cpus,
            timer_shift=options.timer_shift, display=options.display, ram_len=options.ram_len,
            disks=options.disks,
        )  # fmt: skip
        copy_va = None if time_page is None else _host_va(time_page)
        self.cpu = Cpu(self.memory, _host_va(cells), self, copy_va=copy_va)
        self.cpu.counter.drag(options.kernel_drag)
        self.mmu = Mmu(self.memory, self.cpu.registers)
        self.board.messages.on_send = self.clock.end_slice
        self.statistics = Statistics()
        self._breakpoints = Breakpoints(self.cpu, self.mmu, self.clock, self)
        self.hooks = AttachedHooks()
        each = [
            privilege(
                MachineParts(
                    self.memory, self.clock, local, self.cpu, self.mmu, self.on_cpuid,
                    self.statistics, self.hooks, self._breakpoints.load,
                    self._pause if options.cpus > 1 else None,
                )
            )
            for local in self.board.local
        ]  # fmt: skip
        self.privilege = each[0]
        """Of the processor that is in the engine."""
        self.local = self.board.local[0]
        """The devices of that processor."""
        self.processors: Processors | None = None
        if options.cpus > 1:
            self.processors = self._wire(each)
        timeout_s = options.timeout_s
        self._deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._refusal = Refusal(self.cpu)
        self._process_ports = ProcessPorts(self.cpu, self.mmu, self.clock, self)

    def watch(self, hooks: Hooks) -> Callable[[], None]:
        """Call `hooks` from now on; returns what ends that."""
        return self.hooks.attach(hooks)

    def run(self, boot: Boot) -> RunResult:
        """Load a kernel and run it until the machine ends.

        Raises InputNotUnderstood if the kernel does not fit, CpuFailed if the emulator does not.
        """
        load(self.memory, boot)
        self.privilege.start(boot)
        return self.resume()

    def resume(self) -> RunResult:
        """Run on to the next end, from wherever the registers are."""
        collects = gc.isenabled()
        gc.disable()  # the loop makes no cycles, and each look for some takes milliseconds
        try:
            with raising_at(self._deadline_s, self._timed_out):
                self._go_on()
        except GuestEnded as ended:
            self._note(str(ended))
            return self._result(ended)
        finally:
            if collects:
                gc.enable()
            self._count_delivered()

    def _go_on(self) -> NoReturn:
        processors = self.processors
        while processors is None:
            self._cycle()
        while True:
            self._turn(processors)

    def _cycle(self) -> None:
        """Time passes for the devices, then the CPU runs until there is a reason to look again."""
        self._let_devices_work()
        if self.privilege.prepare():
            self.idle()
        if self._execute(MAX_SLICE) is Exit.HALT:
            self.idle()

    def _turn(self, processors: Processors) -> None:
        """The same for the processor whose turn it is."""
        while not processors.choose(self.clock.executed_len):
            self._sleep(processors)
        current = processors.current
        self.privilege, self.local = current.privilege, current.local
        self._let_devices_work()
        if self.privilege.prepare():
            current.halt()
        elif current.state is ProcessorState.RUNNING:
            processors.watch_for_pause()
            left_len = processors.turn.left(self.clock.executed_len)
            if self._execute(min(left_len, MAX_SLICE)) is Exit.HALT:
                current.halt()

    def _let_devices_work(self) -> None:
        privilege = self.privilege
        privilege.before_devices()
        self._check_limit()
        self.clock.run_due()
        if received := self.terminal.poll(False):
            self.board.uart.receive(received)
        privilege.after_devices()
        for call in self.hooks.before_run:
            call()

    def _execute(self, most_len: int) -> Exit:
        """Run the CPU for at most so many bytes of code, and do what its way out asks for."""
        privilege = self.privilege
        privilege.before_run()
        self.cpu.deliver_alone(privilege.is_hardware, privilege.outer, self.hooks.wanted)
        self.clock.grant_slice(most_len)
        exit_ = self.cpu.run()
        if self._breakpoints.is_hit:
            exit_ = self._breakpoints.step()
        self.statistics.exits[exit_] += 1
        if exit_ is Exit.WRITE_PROTECTED:
            self.privilege.deliver(Event.exception(Vector.PROTECTION))
        elif exit_ is Exit.NO_CODE:
            # Where no memory is, the bus reads ones, and ff ff is not an instruction.
            self.privilege.deliver(Event.exception(Vector.UNDEFINED))
        elif exit_ is Exit.NO_MEMORY:
            raise GuestEnded(Ending.UNSUPPORTED, "an address beyond the bus")
        if (event := self._refusal.settle()) is not None:
            privilege.deliver(event)
        self._process_ports.settle()
        self._breakpoints.settle()
        return exit_

    def idle(self) -> None:
        """The guest waits for an interrupt: skip the time until there is one."""
        privilege = self.privilege
        for call in self.hooks.on_wait:
            if call(privilege.interrupts_enabled()):
                return
        privilege.before_devices()
        if not privilege.interrupts_enabled():
            raise GuestEnded(Ending.HALTED, "hlt with interrupts off")
        while self.local.interrupts.pending_line() is None:
            self._let_time_pass()

    def _sleep(self, processors: Processors) -> None:
        """No processor can run: skip the time until a device does something."""
        if not processors.can_wake():
            raise GuestEnded(Ending.HALTED, "hlt of every processor, with interrupts off")
        self._let_time_pass()

    def _let_time_pass(self) -> None:
        self._check_limit()
        if received := self.terminal.poll(True):
            self.board.uart.receive(received)
        elif not self.clock.sleep():
            raise GuestEnded(Ending.HALTED, "hlt with nothing left that could wake the CPU")
        self.clock.run_due()

    def _check_limit(self) -> None:
        limit_ns = self.options.limit_ns
        if limit_ns is not None and self.clock.now_ns >= limit_ns:
            raise GuestEnded(Ending.LIMIT)
        if self._deadline_s is not None and time.monotonic() >= self._deadline_s:
            raise self._timed_out()

    def _timed_out(self) -> GuestEnded:
        return GuestEnded(Ending.TIMEOUT, f"{self.options.timeout_s:g} s, --timeout")

    def on_interrupt(self, number: int) -> None:
        """An exception, a software interrupt or an intercept."""
        if self._breakpoints.steps and self._breakpoints.on_interrupt(number):
            return
        self.statistics.calls[Call.INTERRUPT] += 1
        if self._refusal.is_due:
            self.cpu.take_exception()
            return  # of an instruction after the one that was refused
        hooks = self.hooks
        if hooks.on_trace:
            self._note(f"interrupt {number:#x}")
        for call in hooks.on_interrupt:
            call(number)
        self.privilege.on_interrupt(number)

    def on_invalid(self) -> None:
        """An undefined instruction."""
        self.statistics.calls[Call.INVALID] += 1
        if self._refusal.is_due:
            return
        if self.hooks.on_trace:
            self._note("undefined instruction")
        self.privilege.deliver(Event.exception(Vector.UNDEFINED))

    def on_in(self, port: int, size: int) -> int:
        """A port is read."""
        self.statistics.calls[Call.IN] += 1
        if self._refusal.is_due or not self.privilege.may_use_port(port, size):
            self._refusal.remember()
            return 0
        return self.read_port(port, size)

    def read_port(self, port: int, size: int) -> int:
        """`in` by an instruction that may."""
        privilege = self.privilege
        privilege.before_devices()
        value = (self.hooks.ports or self.board.bus).read(port, size)
        privilege.after_devices()
        if self.hooks.on_trace:
            self._note(f"in {port:#x} -> {value:#0{2 + 2 * size}x}")
        return value

    def on_out(self, port: int, size: int, value: int) -> None:
        """A port is written."""
        self.statistics.calls[Call.OUT] += 1
        if self._refusal.is_due or not self.privilege.may_use_port(port, size):
            self._refusal.remember()
            return
        self.write_port(port, size, value)

    def write_port(self, port: int, size: int, value: int) -> None:
        """`out` by an instruction that may."""
        privilege = self.privilege
        if self.hooks.on_trace:
            self._note(f"out {port:#x} <- {value:#0{2 + 2 * size}x}")
        privilege.before_devices()
        for call in self.hooks.on_port_write:
            call(port, size, value)
        (self.hooks.ports or self.board.bus).write(port, size, value)
        privilege.after_devices()

    def on_cpuid(self) -> None:
        """`cpuid`, at any CPL."""
        self.statistics.calls[Call.CPUID] += 1
        registers = self.cpu.registers
        leaf = cpuid_leaf(
            registers.eax,
            pae=self.options.pae,
            apic=self.options.shows_apic,
            processor=self.local.number,
        )
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
        self._refusal.remember(Vector.UNDEFINED)

    def on_hole_read(self, pa: int, size: int) -> int:
        """An APIC, or a bus without a device."""
        self.statistics.calls[Call.HOLE_READ] += 1
        return read_hole(self.board, self.local, pa, size)

    def on_hole_write(self, pa: int, size: int, value: int) -> None:
        """An APIC, or nothing. A stop right here would repeat the write: if it may have changed
        what is to be delivered, the slice ends after it.
        """
        self.statistics.calls[Call.HOLE_WRITE] += 1
        if is_device(self.board, pa):
            self.privilege.before_devices()
            if write_hole(self.board, self.local, pa, value):
                self.clock.end_slice()

    def _wire(self, privileges: Sequence[Privilege]) -> Processors:
        """Several processors, which a message may start, wake or stop."""
        each = [
            Processor(local.number, local, privilege)
            for local, privilege in zip(self.board.local, privileges, strict=True)
        ]
        return Processors(self.cpu, each, self.options.turn_len)

    def _pause(self) -> None:
        """The processor waits for another one."""
        assert self.processors is not None, "seen with several processors only"
        self.statistics.pauses += 1
        self.processors.turn.give_up()
        self.cpu.stop()

    def _switch_off(self) -> None:
        raise GuestEnded(Ending.POWERED_OFF)

    def _reset(self) -> None:
        raise GuestEnded(Ending.RESET)

    def _count_delivered(self) -> None:
        """Events that were delivered without Python count like all others."""
        for (vector, is_software), count in self.cpu.delivered().items():
            self.statistics.calls[Call.INTERRUPT] += count
            self.statistics.vectors[vector] += count
            self.privilege.count_delivered(vector, is_software, count)
        if answered := self.cpu.answered():
            self.statistics.calls[Call.INTERRUPT] += answered
            self.privilege.count_answered(answered)

    def _note(self, what: str) -> None:
        registers = self.cpu.registers
        for trace in self.hooks.on_trace:
            trace(self.clock.now_ns, f"{registers.cpl}:{registers.eip:08x} {what}")

    def _result(self, ended: GuestEnded) -> RunResult:
        registers = self.cpu.registers
        return RunResult(
            ending=ended.ending,
            details=ended.details,
            statistics=self.statistics,
            blocks=self.cpu.counter.blocks,
            executed_len=self.clock.executed_len,
            now_ns=self.clock.now_ns,
            lacks_breakpoints=self._breakpoints.lacks,
            place=f"EIP {registers.eip:#x} at CPL {registers.cpl}",
            plain_because=self.cpu.plain_because,
        )


def _host_va(octets: bytearray | memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(octets))

# SPDX-License-Identifier: MIT
"""Which of several processors is in the engine, and how does the next one get there?

One engine, as many contexts as processors, one clock: see docs/decisions/0032. Nothing here is used
by a machine of one processor.
"""

from __future__ import annotations

from collections.abc import Sequence

from vmipatch.emu.devices.local import LocalDevices
from vmipatch.emu.privilege import Privilege
from vmipatch.emu.processor.cpu import Cpu
from vmipatch.emu.report import Ending, GuestEnded
from vmipatch.emu.schedule import ProcessorState, Turn, next_processor


class Processor:
    """One processor: its state, registers, devices and privilege."""

    def __init__(self, number: int, local: LocalDevices, privilege: Privilege) -> None:
        self.number = number
        self.local = local
        self.privilege = privilege
        self.state = ProcessorState.OFF if number else ProcessorState.RUNNING
        self.context = b""
        """Registers, while another processor is in the engine."""
        self.page: int | None = None
        """Where STARTUP wants it to begin, which it has not done yet."""
        self.has_started = number == 0
        """Whether it has executed code at some time."""
        self._heeds_interrupts = False
        """Whether it halted with interrupts on."""
        local.apic.processor = self

    @property
    def can_run(self) -> bool:
        """Whether there is something to do for it."""
        if self.state is not ProcessorState.HALTED:
            return self.state is ProcessorState.RUNNING
        if self.local.apic.nmi_waits:
            return True
        return self._heeds_interrupts and self.local.interrupts.pending_line() is not None

    @property
    def can_wake(self) -> bool:
        """Whether an interrupt could give it something to do."""
        return self.state is ProcessorState.RUNNING or (
            self.state is ProcessorState.HALTED and self._heeds_interrupts
        )

    def halt(self) -> None:
        """It has executed HLT."""
        self.privilege.before_devices()
        if self.state is ProcessorState.RUNNING:
            self.state = ProcessorState.HALTED
            self._heeds_interrupts = self.privilege.interrupts_enabled()

    def initialize(self) -> None:
        """INIT. The boot processor would begin anew in the BIOS: GuestEnded."""
        if self.number == 0:
            raise GuestEnded(Ending.RESET, "INIT of the boot processor")
        self.state, self.page = ProcessorState.OFF, None

    def start_up(self, page: int) -> None:
        """STARTUP, which a processor heeds once after INIT."""
        if self.state is ProcessorState.OFF:
            self.state, self.page = ProcessorState.RUNNING, page
            self.has_started = True


class Processors:
    """All processors of a machine."""

    def __init__(self, cpu: Cpu, each: Sequence[Processor], turn_len: int) -> None:
        """The first of `each` is in the engine; the others begin as it is now."""
        self._cpu = cpu
        self.each = tuple(each)
        self.current = each[0]
        self.turn = Turn(turn_len)
        self.switches = 0
        """How often another processor came into the engine."""
        reset = cpu.contexts.save()
        for processor in each:
            processor.context = reset

    def choose(self, executed_len: int) -> bool:
        """Bring the processor that is to run now into the engine; False if none can run.

        `executed_len`: bytes of code that all have executed so far.
        """
        current = self.current
        is_over = self.turn.is_over(executed_len, held=current.privilege.is_held)
        if current.can_run and current.page is None and not is_over:
            current.state = ProcessorState.RUNNING
            return True
        number = next_processor([each.can_run for each in self.each], current.number)
        if number is None:
            return False
        self._enter(self.each[number])
        self.turn.begin(executed_len)
        return True

    def watch_for_pause(self) -> None:
        """See PAUSE as long as another processor could use the time."""
        current = self.current
        others = any(each.can_run for each in self.each if each is not current)
        self._cpu.intercept_pause(others)

    def _enter(self, chosen: Processor) -> None:
        current = self.current
        if chosen is not current:
            current.privilege.switch_out()
            current.context = self._cpu.contexts.save()
            self._cpu.contexts.load(chosen.context)
            self.current = chosen
            self.switches += 1
            chosen.privilege.switch_in()
        chosen.state = ProcessorState.RUNNING
        if chosen.page is not None:
            page, chosen.page = chosen.page, None
            chosen.privilege.start_up(page)

    @property
    def started(self) -> int:
        """How many have executed code at some time."""
        return sum(processor.has_started for processor in self.each)

    def can_wake(self) -> bool:
        """Whether any of them could go on if time passed."""
        return any(processor.can_wake for processor in self.each)

# SPDX-License-Identifier: MIT
"""What is it like to run on bare hardware? The guest kernel has the CPU at CPL 0.

External interrupts are *promised*: Unicorn takes one through the guest's IDT as soon as IF allows,
without a call into Python. The interrupt controllers learn of it before anybody can look at them
again, and the promise follows them when a device, a mask or an end of interrupt changes what is
pending: the guest sees what it would see with an INTR line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmipatch.emu.cpu import VMEXIT
from vmipatch.emu.events import (
    WITH_ERROR_CODE,
    Cause,
    Delivery,
    Event,
)
from vmipatch.emu.loader import Boot, enter
from vmipatch.emu.paging import PageFault
from vmipatch.emu.privilege import Privilege
from vmipatch.emu.registers import Flag, Segment
from vmipatch.emu.report import Ending, GuestEnded
from vmipatch.emu.undeliverable import deliver_or_end

if TYPE_CHECKING:
    from vmipatch.emu.machine import Machine

_VM = int(Flag.VM)
_IO_MAP_OFF = 0x66
"""Where a TSS tells the offset of its I/O permission bitmap."""


class NativePrivilege(Privilege):
    """CPL 0 for the guest kernel."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self._cpu = machine.cpu
        self._registers = machine.cpu.registers
        self._pic = machine.board.interrupts
        self._delivery = Delivery(self._registers, machine.mmu)
        self._promised: tuple[int, int] | None = None

    def start(self, boot: Boot) -> None:
        """Enter the kernel as a boot loader does."""
        enter(self._registers, boot)

    def on_interrupt(self, number: int) -> None:
        """Deliver through the guest's IDT."""
        software = self._cpu.take_exception()
        if number >= VMEXIT:
            raise GuestEnded(Ending.UNSUPPORTED, f"intercept {number - VMEXIT:#x} at CPL 0")
        if software:
            event = Event(number, Cause.SOFTWARE)
        elif number in WITH_ERROR_CODE:
            event = Event(number, Cause.EXCEPTION, self._registers.error_code)
        else:
            event = Event(number, Cause.EXCEPTION)
        self.deliver(event)

    def deliver(self, event: Event) -> None:
        """Change registers and stack so that the handler runs next."""
        self.machine.delivered(event)
        deliver_or_end(self._delivery, event)

    def may_use_port(self, port: int, size: int) -> bool:
        """IOPL and the bitmap of the TSS, which Unicorn does not check."""
        registers = self._registers
        if registers.cpl <= registers.iopl and not registers.raw_eflags & _VM:
            return True
        tss, mmu = registers.tr, self.machine.mmu
        if tss.limit < _IO_MAP_OFF + 1:
            return False
        try:
            place = (mmu.read_u32(tss.base + _IO_MAP_OFF) & 0xFFFF) + (port >> 3)
            if place + 1 > tss.limit:
                return False
            bits = int.from_bytes(mmu.read(tss.base + place, 2), "little")
        except PageFault:
            return False
        return not bits >> (port & 7) & ((1 << size) - 1)

    def interrupts_enabled(self) -> bool:
        """EFLAGS.IF."""
        return self._registers.interrupt_flag

    @property
    def task(self) -> Segment:
        """The CPU's own."""
        return self._registers.tr

    def before_run(self) -> None:
        """Nothing is left to do: what is pending has been promised."""

    def before_devices(self) -> None:
        """Acknowledge a promised interrupt that has been taken meanwhile."""
        if self._promised is not None and not self._cpu.interrupt_promised:
            line, _ = self._promised
            self._promised = None
            self._pic.acknowledge(line)
            self.machine.statistics.lines[line] += 1

    def after_devices(self) -> None:
        """Promise what is pending now; if it can be taken at once, leave the code for it."""
        line = self._pic.pending_line()
        promise = None if line is None else (line, self._pic.vector_of(line))
        if promise == self._promised:
            return
        self._promised = promise
        self._cpu.promise_interrupt(None if promise is None else promise[1])
        if promise is not None and self._registers.interrupt_flag:
            self._cpu.stop()

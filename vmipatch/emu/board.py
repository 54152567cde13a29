# SPDX-License-Identifier: MIT
"""Which devices has the machine? A board of the AT's: interrupts, timers, serial port, clock."""

from __future__ import annotations

from collections.abc import Callable

from vmipatch.emu.bus import PortBus
from vmipatch.emu.clock import Clock
from vmipatch.emu.cmos import Cmos
from vmipatch.emu.cycle_alarms import CycleAlarms
from vmipatch.emu.interrupts import Interrupts
from vmipatch.emu.local_apic import LocalApic
from vmipatch.emu.pci import PciConfiguration
from vmipatch.emu.pic import PicPair
from vmipatch.emu.pit import Pit8254
from vmipatch.emu.reset import ResetLine
from vmipatch.emu.uart import COM1_LINE, Uart16550

TIMER_LINE = 0


class Board:
    """The devices, wired."""

    def __init__(
        self, clock: Clock, send: Callable[[int], None], reset: Callable[[], None]
    ) -> None:
        """`send` gets each byte the serial port sends, `reset` ends the machine."""
        self.bus = PortBus()
        self.pic = PicPair(self.bus)
        self.apic = LocalApic(clock)
        self.interrupts = Interrupts(self.pic, self.apic)
        self.alarms = CycleAlarms(clock, lambda: self.pic.pulse(TIMER_LINE), self.apic.ring_timer)
        self.pci = PciConfiguration(self.bus)
        self.pit = Pit8254(clock, self.bus, lambda: self.pic.pulse(TIMER_LINE))
        self.uart = Uart16550(self.bus, lambda high: self.pic.set_line(COM1_LINE, high), send)
        self.cmos = Cmos(clock, self.bus)
        self.reset = ResetLine(self.bus, reset)

# SPDX-License-Identifier: MIT
"""Which devices has the machine? A board of the AT's: interrupts, timer, serial port, clock."""

from __future__ import annotations

from collections.abc import Callable

from vmipatch.emu.bus import PortBus
from vmipatch.emu.clock import Clock
from vmipatch.emu.cmos import Cmos
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
        self.pit = Pit8254(clock, self.bus, lambda: self.pic.pulse(TIMER_LINE))
        self.uart = Uart16550(self.bus, lambda high: self.pic.set_line(COM1_LINE, high), send)
        self.cmos = Cmos(clock, self.bus)
        self.reset = ResetLine(self.bus, reset)

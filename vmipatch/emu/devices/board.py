# SPDX-License-Identifier: MIT
"""Which devices has the machine? A board of the AT's: interrupts, timers, serial port, clock.

A board for several processors has an I/O APIC and the fixed registers of ACPI as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vmipatch.emu.clock import Clock
from vmipatch.emu.devices.bus import PortBus
from vmipatch.emu.devices.cmos import Cmos
from vmipatch.emu.devices.display import Display
from vmipatch.emu.devices.ide import DISK_LINE, IdeDisks
from vmipatch.emu.devices.io_apic import IoApic
from vmipatch.emu.devices.keyboard import KeyboardController
from vmipatch.emu.devices.lines import InterruptLines
from vmipatch.emu.devices.local import LocalDevices
from vmipatch.emu.devices.messages import MessageBus
from vmipatch.emu.devices.pci import PciConfiguration
from vmipatch.emu.devices.pic import PicPair
from vmipatch.emu.devices.pit import Pit8254
from vmipatch.emu.devices.power import PowerManagement
from vmipatch.emu.devices.reset import ResetLine
from vmipatch.emu.devices.uart import COM1_LINE, Uart16550

TIMER_LINE = 0


class Board:
    """The devices, wired."""

    def __init__(
        self,
        clock: Clock,
        send: Callable[[int], None],
        reset: Callable[[], None],
        switch_off: Callable[[], None],
        cpus: int = 1,
        *,
        timer_shift: int = 0,
        display: bool = False,
        ram_len: int = 0,
        disks: Sequence[bytes] = (),
    ) -> None:
        """`send` gets each byte the serial port sends; `reset` and `switch_off` end the machine.

        `timer_shift`: thousandths of its period by which the PIT's interrupt comes later.
        `display`: whether there are a text display and a keyboard controller, and `ram_len` in the
        CMOS memory. `disks`: the contents of ATA disks.
        """
        self.bus = PortBus()
        self.pic = PicPair(self.bus)
        self.messages = MessageBus()
        self.io_apic: IoApic | None = None
        lines: PicPair | InterruptLines = self.pic
        if cpus > 1:
            self.io_apic = IoApic(self.messages, cpus)
            lines = InterruptLines(self.pic, self.io_apic)
            PowerManagement(self.bus, clock, switch_off)

        def ring_timer() -> None:
            lines.pulse(TIMER_LINE)

        self.local = tuple(
            LocalDevices(number, clock, self.messages, self.pic, ring_timer)
            for number in range(cpus)
        )
        """The devices of each processor, by its number."""
        self.pci = PciConfiguration(self.bus)
        self.pit = Pit8254(clock, self.bus, ring_timer, shift=timer_shift)
        self.uart = Uart16550(self.bus, lambda high: lines.set_line(COM1_LINE, high), send)
        self.cmos = Cmos(clock, self.bus, ram_len if display else 0)
        self.reset = ResetLine(self.bus, reset, has_keyboard=display)
        if display:
            Display(self.bus)
            KeyboardController(self.bus, reset)
        if disks:
            IdeDisks(self.bus, disks, lambda high: lines.set_line(DISK_LINE, high))

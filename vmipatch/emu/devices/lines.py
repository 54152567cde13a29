# SPDX-License-Identifier: MIT
"""Where do the interrupt lines of the AT come in? At the old controllers, and at the I/O APIC."""

from __future__ import annotations

from vmipatch.emu.devices.io_apic import IoApic, pin_of
from vmipatch.emu.devices.pic import PicPair


class InterruptLines:
    """Sixteen lines that are wired to both; software masks what it does not want."""

    def __init__(self, pic: PicPair, io_apic: IoApic) -> None:
        self._pic = pic
        self._io_apic = io_apic

    def set_line(self, line: int, high: bool) -> None:
        """Raise or lower a line."""
        self._pic.set_line(line, high)
        self._io_apic.set_line(pin_of(line), high)

    def pulse(self, line: int) -> None:
        """A line that falls and rises again."""
        self.set_line(line, False)
        self.set_line(line, True)

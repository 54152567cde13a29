# SPDX-License-Identifier: MIT
"""Which interrupt comes next? Two 8259A controllers in a cascade, as in the PC/AT.

Source: Intel 8259A data sheet. Edge-triggered, fixed priorities, 8086 mode. As the data sheet asks
for, a request disappears with its line when the line falls before the CPU has acknowledged it.
"""

from __future__ import annotations

from vmipatch.emu.devices.bus import PortBus, Writer

MASTER_PORT, SLAVE_PORT = 0x20, 0xA0
CASCADE_LINE = 2
_SPURIOUS_LINE = 7


class Pic8259:
    """One controller of eight lines."""

    def __init__(self) -> None:
        self.lines = 0
        self.requests = 0
        self.in_service = 0
        self.mask = 0xFF
        self.vector_base = 0
        self._auto_eoi = False
        self._special_mask = False
        self._read_in_service = False
        self._poll = False
        self._next_icw = 0
        self._needs_icw4 = False

    def set_line(self, line: int, high: bool) -> None:
        """Raise or lower an interrupt line; the rising edge is the request."""
        bit = 1 << line
        if high and not self.lines & bit:
            self.requests |= bit
        elif not high:
            self.requests &= ~bit
        self.lines = self.lines | bit if high else self.lines & ~bit

    def pending_line(self) -> int | None:
        """The line that the controller asks the CPU to serve, or None."""
        waiting = self.requests & ~self.mask
        if not waiting:
            return None
        line = _lowest(waiting)
        blocking = self.in_service
        if self._special_mask:
            blocking &= ~self.mask
        if blocking and _lowest(blocking) <= line:
            return None
        return line

    def acknowledge(self, line: int) -> None:
        """The CPU takes the interrupt of `line`."""
        self.requests &= ~(1 << line)
        if not self._auto_eoi:
            self.in_service |= 1 << line

    def read_command(self) -> int:
        """Port 0: requests or interrupts in service, as chosen; or the answer to a poll."""
        if self._poll:
            self._poll = False
            line = self.pending_line()
            if line is None:
                return 0
            self.acknowledge(line)
            return 0x80 | line
        return self.in_service if self._read_in_service else self.requests

    def read_mask(self) -> int:
        """Port 1: the interrupt mask."""
        return self.mask

    def write_command(self, value: int) -> None:
        """Port 0: ICW1 begins the initialisation, OCW2 ends interrupts, OCW3 chooses modes."""
        if value & 0x10:
            self._begin_initialisation(value)
        elif value & 0x08:
            if value & 0x02:
                self._read_in_service = bool(value & 0x01)
            if value & 0x40:
                self._special_mask = bool(value & 0x20)
            self._poll = bool(value & 0x04)
        elif value & 0x20:
            line = value & 7 if value & 0x40 else _lowest(self.in_service)
            self.in_service &= ~(1 << line) & 0xFF

    def write_mask(self, value: int) -> None:
        """Port 1: ICW2 to ICW4 while initialising, else the mask."""
        if self._next_icw == 0:
            self.mask = value
        elif self._next_icw == 2:
            self.vector_base = value & 0xF8
            self._next_icw = 3
        elif self._next_icw == 3:
            self._next_icw = 4 if self._needs_icw4 else 0
        else:
            self._auto_eoi = bool(value & 0x02)
            self._next_icw = 0

    def _begin_initialisation(self, icw1: int) -> None:
        self.requests = self.in_service = self.mask = 0
        self._auto_eoi = self._special_mask = self._read_in_service = False
        self._needs_icw4 = bool(icw1 & 0x01)
        self._next_icw = 2


class PicPair:
    """Master and slave: lines 0 to 15."""

    def __init__(self, bus: PortBus) -> None:
        self.master = Pic8259()
        self.slave = Pic8259()
        for port, pic in ((MASTER_PORT, self.master), (SLAVE_PORT, self.slave)):
            bus.claim(port, pic.read_command, self._then_cascade(pic.write_command))
            bus.claim(port + 1, pic.read_mask, self._then_cascade(pic.write_mask))

    def set_line(self, line: int, high: bool) -> None:
        """Raise or lower one of the sixteen lines."""
        if line < 8:
            self.master.set_line(line, high)
        else:
            self.slave.set_line(line - 8, high)
            self._cascade()

    def pulse(self, line: int) -> None:
        """A line that falls and rises again: one more request, or the same one still."""
        self.set_line(line, False)
        self.set_line(line, True)

    def pending_line(self) -> int | None:
        """The line that is to be served next, or None."""
        line = self.master.pending_line()
        if line != CASCADE_LINE:
            return line
        inner = self.slave.pending_line()
        return 8 + (_SPURIOUS_LINE if inner is None else inner)

    def vector_of(self, line: int) -> int:
        """The interrupt vector of a line."""
        pic = self.master if line < 8 else self.slave
        return pic.vector_base + (line & 7)

    def acknowledge(self, line: int) -> int:
        """The CPU takes the interrupt of a pending line; returns its vector."""
        if line < 8:
            self.master.acknowledge(line)
        else:
            self.master.acknowledge(CASCADE_LINE)
            self.slave.acknowledge(line - 8)
            self._cascade()
        return self.vector_of(line)

    def _then_cascade(self, write: Writer) -> Writer:
        def written(value: int) -> None:
            write(value)
            self._cascade()

        return written

    def _cascade(self) -> None:
        """The slave's output is the master's line 2, which falls for a moment at each request."""
        pending = self.slave.pending_line() is not None
        if pending and not self.master.requests & 1 << CASCADE_LINE:
            self.master.set_line(CASCADE_LINE, False)
        self.master.set_line(CASCADE_LINE, pending)


def _lowest(bits: int) -> int:
    """The number of the lowest bit set; 7 if none is."""
    return (bits & -bits).bit_length() - 1 if bits else _SPURIOUS_LINE

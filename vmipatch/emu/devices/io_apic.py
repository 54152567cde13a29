# SPDX-License-Identifier: MIT
"""Which processors does a device interrupt? As the redirection table of the I/O APIC says.

Source: Intel 82093AA data sheet (290566). Its pins are the lines of the AT, with the timer at pin 2
as on every PC; pin 0, where the controllers of the AT would come in, is not connected. Polarity is
kept and means nothing: devices speak of asserted lines, not of voltages.
"""

from __future__ import annotations

from typing import Final

from vmipatch.emu.devices.messages import Message, MessageBus, MessageKind

IO_APIC_PA: Final = 0xFEC00000
IO_APIC_LEN: Final = 0x1000
PIN_COUNT: Final = 24
TIMER_PIN: Final = 2
SELECT, WINDOW = 0x00, 0x10
ID, VERSION, ARBITRATION, FIRST_ENTRY = 0x00, 0x01, 0x02, 0x10
_VERSION: Final = 0x11 | (PIN_COUNT - 1) << 16
_LOGICAL, _REMOTE_IRR, _LEVEL, MASKED = 1 << 11, 1 << 14, 1 << 15, 1 << 16
_KEPT: Final = 0xFF000000_0001AFFF
"""The bits of an entry that software can write."""


def pin_of(line: int) -> int:
    """The pin at which a line of the AT comes in."""
    return TIMER_PIN if line == 0 else line


class IoApic:
    """One controller of 24 pins, reached by a register that selects and a window."""

    def __init__(self, bus: MessageBus, number: int) -> None:
        """`number`: its APIC number until software writes another one."""
        self._bus = bus
        self._id = number << 24
        self._selected = 0
        self._entries = [MASKED] * PIN_COUNT
        self._lines = 0
        bus.on_end_of_interrupt(self._ended)

    def read(self, offset: int) -> int:
        """The register at `offset` of the page; 0 where it does not exist."""
        if offset == SELECT:
            return self._selected
        if offset != WINDOW:
            return 0
        if self._selected in (ID, ARBITRATION):
            return self._id
        if self._selected == VERSION:
            return _VERSION
        pin, half = divmod(self._selected - FIRST_ENTRY, 2)
        if not 0 <= pin < PIN_COUNT:
            return 0
        return self._entries[pin] >> 32 * half & 0xFFFFFFFF

    def write(self, offset: int, value: int) -> None:
        """Write a register; lost where it does not exist or can only be read."""
        if offset == SELECT:
            self._selected = value & 0xFF
        elif offset == WINDOW and self._selected == ID:
            self._id = value & 0x0F000000
        elif offset == WINDOW:
            pin, half = divmod(self._selected - FIRST_ENTRY, 2)
            if 0 <= pin < PIN_COUNT:
                self._write_entry(pin, half, value & 0xFFFFFFFF)

    def set_line(self, pin: int, high: bool) -> None:
        """Assert or release a line. An edge at a pin that is masked is lost, as the sheet says."""
        bit = 1 << pin
        rises = high and not self._lines & bit
        self._lines = self._lines | bit if high else self._lines & ~bit
        entry = self._entries[pin]
        if entry & MASKED:
            return
        if entry & _LEVEL:
            self._offer_level(pin)
        elif rises:
            self._send(entry)

    def _write_entry(self, pin: int, half: int, value: int) -> None:
        old, shift = self._entries[pin], 32 * half
        new = old & ~(0xFFFFFFFF << shift) | value << shift
        entry = new & _KEPT | old & _REMOTE_IRR
        if not entry & _LEVEL:
            entry &= ~_REMOTE_IRR
        self._entries[pin] = entry
        if entry & _LEVEL and not entry & MASKED:
            self._offer_level(pin)

    def _offer_level(self, pin: int) -> None:
        """Send a level-triggered interrupt unless a processor is serving it."""
        entry = self._entries[pin]
        if self._lines >> pin & 1 and not entry & _REMOTE_IRR:
            self._entries[pin] = entry | _REMOTE_IRR
            self._send(entry)

    def _send(self, entry: int) -> None:
        self._bus.send(
            Message(
                kind=MessageKind(entry >> 8 & 7),
                vector=entry & 0xFF,
                destination=entry >> 56,
                is_logical=bool(entry & _LOGICAL),
                is_level=bool(entry & _LEVEL),
            )
        )

    def _ended(self, vector: int) -> None:
        """A processor has served `vector`: a line that is still asserted asks again."""
        for pin, entry in enumerate(self._entries):
            if entry & _LEVEL and entry & _REMOTE_IRR and entry & 0xFF == vector:
                self._entries[pin] = entry & ~_REMOTE_IRR
                if not entry & MASKED:
                    self._offer_level(pin)

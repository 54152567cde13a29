# SPDX-License-Identifier: MIT
"""How is the PC switched off, and what does its power management timer count?

Source: ACPI Specification 1.0b, 4.7.3 (PM1 event and control registers, PM timer). The machine is
in ACPI mode from the beginning; nothing raises an event, so that the status stays 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from vmipatch.emu.clock import NS_PER_S, Clock
from vmipatch.emu.devices.bus import PortBus

PM1_EVENT_PORT: Final = 0x600
PM1_CONTROL_PORT: Final = 0x604
TIMER_PORT: Final = 0x608
PM1_EVENT_LEN, PM1_CONTROL_LEN, TIMER_LEN = 4, 2, 4
TIMER_HZ: Final = 3_579_545
SOFT_OFF: Final = 5
"""SLP_TYP of the state S5: what the DSDT says, and what switches the machine off."""
_TIMER_MASK: Final = 0xFFFFFF
_SCI_EN: Final = 1
_SLEEP_TYPE_SHIFT, _SLEEP_TYPE, _SLEEP_ENABLE = 10, 7, 1 << 13
_KEPT: Final = 0xFFFF & ~_SLEEP_ENABLE


class PowerManagement:
    """The fixed registers of ACPI."""

    def __init__(self, bus: PortBus, clock: Clock, switch_off: Callable[[], None]) -> None:
        """`switch_off` is called when the guest asks for the state S5."""
        self._clock = clock
        self._switch_off = switch_off
        self._enable = 0
        self._control = _SCI_EN
        self._latched = 0
        """The timer at the time when its lowest byte was read."""
        for i in range(2):
            bus.claim(PM1_EVENT_PORT + i, lambda: 0, None)
            bus.claim(PM1_EVENT_PORT + 2 + i, self._reader(i), self._enabler(i))
            bus.claim(PM1_CONTROL_PORT + i, self._control_reader(i), self._controller(i))
        for i in range(TIMER_LEN):
            bus.claim(TIMER_PORT + i, self._timer_reader(i), None)

    def _reader(self, place: int) -> Callable[[], int]:
        return lambda: self._enable >> 8 * place & 0xFF

    def _enabler(self, place: int) -> Callable[[int], None]:
        def write(value: int) -> None:
            self._enable = _with_byte(self._enable, place, value)

        return write

    def _control_reader(self, place: int) -> Callable[[], int]:
        return lambda: self._control >> 8 * place & 0xFF

    def _controller(self, place: int) -> Callable[[int], None]:
        def write(value: int) -> None:
            wanted = _with_byte(self._control, place, value)
            self._control = wanted & _KEPT | _SCI_EN
            asked = wanted & _SLEEP_ENABLE
            if asked and wanted >> _SLEEP_TYPE_SHIFT & _SLEEP_TYPE == SOFT_OFF:
                self._switch_off()

        return write

    def _timer_reader(self, place: int) -> Callable[[], int]:
        def read() -> int:
            if place == 0:
                self._latched = self._clock.now_ns * TIMER_HZ // NS_PER_S & _TIMER_MASK
            return self._latched >> 8 * place & 0xFF

        return read


def _with_byte(word: int, place: int, value: int) -> int:
    return word & ~(0xFF << 8 * place) | value << 8 * place

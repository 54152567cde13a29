# SPDX-License-Identifier: MIT
"""How does the guest reset the machine? Three ports that pull the CPU's reset line.

The keyboard controller's pulse command (port 64h; there is no keyboard), the chipset's
reset control register (CF9h) and the fast reset of system control port A (92h).
"""

from __future__ import annotations

from collections.abc import Callable

from vmipatch.emu.devices.bus import PortBus

KEYBOARD_PORT, RESET_CONTROL_PORT, SYSTEM_CONTROL_PORT = 0x64, 0xCF9, 0x92
_PULSE_RESET = 0xFE
_RESET_CPU = 0x04
_FAST_RESET = 0x01
_A20 = 0x02


class ResetLine:
    """`pulled` is called when the guest resets the machine."""

    def __init__(
        self, bus: PortBus, pulled: Callable[[], None], *, has_keyboard: bool = False
    ) -> None:
        """`has_keyboard`: a controller answers at port 64h, and resets by itself."""
        self._pulled = pulled
        self._reset_control = 0
        if not has_keyboard:
            bus.claim(KEYBOARD_PORT, None, self._write_keyboard)
        bus.claim(RESET_CONTROL_PORT, lambda: self._reset_control, self._write_reset_control)
        bus.claim(SYSTEM_CONTROL_PORT, lambda: _A20, self._write_system_control)

    def _write_keyboard(self, value: int) -> None:
        if value == _PULSE_RESET:
            self._pulled()

    def _write_reset_control(self, value: int) -> None:
        self._reset_control = value
        if value & _RESET_CPU:
            self._pulled()

    def _write_system_control(self, value: int) -> None:
        if value & _FAST_RESET:
            self._pulled()

# SPDX-License-Identifier: MIT
"""Where is the cursor of a text display? The registers of its CRT controller, which remember.

Source: IBM VGA Technical Reference, CRT controller (ports 3D4h and 3D5h) and input status
register 1 (3DAh). What is shown is memory at 0xB8000; nothing draws it.
"""

from __future__ import annotations

from typing import Final

from vmipatch.emu.devices.bus import PortBus

TEXT_PA: Final = 0xB8000
TEXT_LEN: Final = 0x8000
INDEX_PORT, DATA_PORT, STATUS_PORT = 0x3D4, 0x3D5, 0x3DA
_REGISTERS: Final = 25
_RETRACE: Final = 0x09
"""Vertical retrace and display off, which come and go."""


class Display:
    """A VGA in text mode as far as kernels move its cursor."""

    def __init__(self, bus: PortBus) -> None:
        self._index = 0
        self._values = bytearray(_REGISTERS)
        self._status = 0
        bus.claim(INDEX_PORT, lambda: self._index, self._select)
        bus.claim(DATA_PORT, self._read, self._write)
        bus.claim(STATUS_PORT, self._read_status, None)

    def _select(self, value: int) -> None:
        self._index = value & 0x1F

    def _read(self) -> int:
        return self._values[self._index] if self._index < _REGISTERS else 0xFF

    def _write(self, value: int) -> None:
        if self._index < _REGISTERS:
            self._values[self._index] = value

    def _read_status(self) -> int:
        self._status ^= _RETRACE
        return self._status

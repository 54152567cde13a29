# SPDX-License-Identifier: MIT
"""What does a keyboard controller answer to which nothing is typed? An 8042 with its self-tests.

Source: Intel 8042 as the IBM AT uses it: status at port 64h, commands to it, data at 60h. Each
byte to the keyboard is acknowledged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from vmipatch.emu.devices.bus import PortBus

DATA_PORT, STATUS_PORT = 0x60, 0x64
_FULL, _SYSTEM = 0x01, 0x04
_READ_COMMAND, _WRITE_COMMAND = 0x20, 0x60
_SELF_TEST, _TEST_PORT, _READ_OUTPUT, _WRITE_OUTPUT = 0xAA, 0xAB, 0xD0, 0xD1
_PULSE_RESET: Final = 0xFE
_ANSWERS: Final = {_SELF_TEST: 0x55, _TEST_PORT: 0x00, _READ_OUTPUT: 0x03}
_ACKNOWLEDGE, _RESET_KEYBOARD, _PASSED = 0xFA, 0xFF, 0xAA
_RESET_LINE: Final = 0x01


class KeyboardController:
    """`reset` is called when the guest pulls the CPU's reset line."""

    def __init__(self, bus: PortBus, reset: Callable[[], None]) -> None:
        self._reset = reset
        self._command_byte = 0x45
        self._output: deque[int] = deque()
        self._operand_of: int | None = None
        bus.claim(DATA_PORT, self._read_data, self._write_data)
        bus.claim(STATUS_PORT, self._read_status, self._write_command)

    def _read_status(self) -> int:
        return _SYSTEM | (_FULL if self._output else 0)

    def _read_data(self) -> int:
        return self._output.popleft() if self._output else 0

    def _write_command(self, value: int) -> None:
        self._operand_of = None
        if value == _PULSE_RESET:
            self._reset()
        elif value == _READ_COMMAND:
            self._output.append(self._command_byte)
        elif value in _ANSWERS:
            self._output.append(_ANSWERS[value])
        elif value in (_WRITE_COMMAND, _WRITE_OUTPUT):
            self._operand_of = value

    def _write_data(self, value: int) -> None:
        command, self._operand_of = self._operand_of, None
        if command == _WRITE_COMMAND:
            self._command_byte = value
        elif command == _WRITE_OUTPUT:
            if not value & _RESET_LINE:
                self._reset()
        else:
            self._output.append(_ACKNOWLEDGE)
            if value == _RESET_KEYBOARD:
                self._output.append(_PASSED)

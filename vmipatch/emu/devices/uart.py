# SPDX-License-Identifier: MIT
"""How does the guest speak and hear? A serial port with a 16550A.

Source: National Semiconductor PC16550D data sheet. Sending takes no time: the transmitter is always
empty again when the guest looks. The receiver's FIFO is filled from a queue without an end.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable

from vmipatch.emu.devices.bus import PortBus

COM1_PORT, COM1_LINE = 0x3F8, 4
_FIFO_LEN = 16


class Ier(enum.IntFlag):
    """Interrupt enable register."""

    RECEIVED = 1
    TRANSMITTER_EMPTY = 2
    LINE_STATUS = 4
    MODEM_STATUS = 8


class Iir(enum.IntEnum):
    """Interrupt identification register."""

    NONE = 1
    TRANSMITTER_EMPTY = 2
    RECEIVED = 4


class Lsr(enum.IntFlag):
    """Line status register."""

    DATA_READY = 1
    HOLDING_EMPTY = 0x20
    TRANSMITTER_EMPTY = 0x40


_DIVISOR_ACCESS = 0x80
_LOOPBACK = 0x10
_FIFO_ENABLED = 0x01
_CLEAR_RECEIVER = 0x02
_MODEM_READY = 0xB0
"""Data carrier, data set ready, clear to send."""


class Uart16550:
    """The serial port; `set_line` drives its interrupt line, `send` gets each byte."""

    def __init__(
        self, bus: PortBus, set_line: Callable[[bool], None], send: Callable[[int], None]
    ) -> None:
        self._set_line = set_line
        self._send = send
        self._queue: deque[int] = deque()
        self._divisor = 12
        self._enabled = self._line = self._modem = self._scratch = 0
        self._fifo = False
        self._empty_is_news = False
        reads = (
            self._read_data, self._read_enabled, self._read_identification, lambda: self._line,
            lambda: self._modem, self._read_line_status, self._read_modem_status,
            lambda: self._scratch,
        )  # fmt: skip
        writes = (
            self._write_data, self._write_enabled, self._write_fifo_control, self._write_line,
            self._write_modem, None, None, self._write_scratch,
        )  # fmt: skip
        for off, (read, write) in enumerate(zip(reads, writes, strict=True)):
            bus.claim(COM1_PORT + off, read, write)

    def receive(self, data: bytes) -> None:
        """Bytes that arrive at the port."""
        self._queue.extend(data)
        self._update()

    def _update(self) -> None:
        self._set_line(self._cause() is not Iir.NONE)

    def _cause(self) -> Iir:
        if self._enabled & Ier.RECEIVED and self._queue:
            return Iir.RECEIVED
        if self._enabled & Ier.TRANSMITTER_EMPTY and self._empty_is_news:
            return Iir.TRANSMITTER_EMPTY
        return Iir.NONE

    def _read_data(self) -> int:
        if self._line & _DIVISOR_ACCESS:
            return self._divisor & 0xFF
        value = self._queue.popleft() if self._queue else 0
        self._update()
        return value

    def _write_data(self, value: int) -> None:
        if self._line & _DIVISOR_ACCESS:
            self._divisor = self._divisor & 0xFF00 | value
            return
        if self._modem & _LOOPBACK:
            self._queue.append(value)
        else:
            self._send(value)
        # The line falls while the byte is in the holding register: a new edge for the controller.
        self._empty_is_news = False
        self._update()
        self._empty_is_news = True
        self._update()

    def _read_enabled(self) -> int:
        return self._divisor >> 8 if self._line & _DIVISOR_ACCESS else self._enabled

    def _write_enabled(self, value: int) -> None:
        if self._line & _DIVISOR_ACCESS:
            self._divisor = self._divisor & 0xFF | value << 8
            return
        if value & ~self._enabled & Ier.TRANSMITTER_EMPTY:
            self._empty_is_news = True
        self._enabled = value & 0x0F
        self._update()

    def _read_identification(self) -> int:
        cause = self._cause()
        if cause is Iir.TRANSMITTER_EMPTY:
            self._empty_is_news = False
            self._update()
        return cause | (0xC0 if self._fifo else 0)

    def _write_fifo_control(self, value: int) -> None:
        self._fifo = bool(value & _FIFO_ENABLED)
        if value & _CLEAR_RECEIVER:
            # What is in the chip is lost; what has not arrived yet is not.
            for _ in range(min(_FIFO_LEN, len(self._queue))):
                self._queue.popleft()
            self._update()

    def _write_line(self, value: int) -> None:
        self._line = value

    def _write_modem(self, value: int) -> None:
        self._modem = value & 0x1F

    def _write_scratch(self, value: int) -> None:
        self._scratch = value

    def _read_line_status(self) -> int:
        ready = Lsr.DATA_READY if self._queue else 0
        return ready | Lsr.HOLDING_EMPTY | Lsr.TRANSMITTER_EMPTY

    def _read_modem_status(self) -> int:
        if not self._modem & _LOOPBACK:
            return _MODEM_READY
        out = self._modem
        return (out & 1) << 5 | (out & 2) << 3 | (out & 4) << 4 | (out & 8) << 4

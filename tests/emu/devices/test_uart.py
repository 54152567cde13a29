# SPDX-License-Identifier: MIT
"""Does the serial port send, receive and interrupt as drivers expect?"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from tests.emu.devices.board import inb, out
from vmipatch.emu.devices.bus import PortBus
from vmipatch.emu.devices.uart import COM1_PORT, Uart16550

DATA, IER, IIR, FCR, LCR, MCR, LSR, MSR, SCRATCH = (
    COM1_PORT + i for i in (0, 1, 2, 2, 3, 4, 5, 6, 7)
)


@dataclass
class Port:
    """The chip with what is around it."""

    bus: PortBus = field(default_factory=PortBus)
    lines: list[bool] = field(default_factory=list)
    sent: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self.uart = Uart16550(self.bus, self.lines.append, self.sent.append)


@pytest.fixture
def port() -> Port:
    return Port()


def test_sent_bytes_come_out_at_once(port: Port) -> None:
    for letter in b"VMI":
        assert inb(port.bus, LSR) & 0x60 == 0x60
        out(port.bus, DATA, letter)
    assert port.sent == b"VMI"


def test_empty_transmitter_interrupts_until_it_is_asked(port: Port) -> None:
    out(port.bus, IER, 0x02)
    assert port.lines[-1]
    assert inb(port.bus, IIR) & 0x0F == 0x02
    assert not port.lines[-1]
    assert inb(port.bus, IIR) & 0x0F == 0x01


def test_each_sent_byte_is_a_new_edge(port: Port) -> None:
    out(port.bus, IER, 0x02)
    port.lines.clear()
    out(port.bus, DATA, 0x41)
    assert port.lines == [False, True]


def test_received_bytes_interrupt_before_anything_else(port: Port) -> None:
    out(port.bus, IER, 0x03)
    port.uart.receive(b"ok")
    assert inb(port.bus, IIR) & 0x0F == 0x04
    assert inb(port.bus, LSR) & 0x01
    assert [inb(port.bus, DATA), inb(port.bus, DATA)] == list(b"ok")
    assert not inb(port.bus, LSR) & 0x01
    assert inb(port.bus, IIR) & 0x0F == 0x02


def test_divisor_is_after_its_bit(port: Port) -> None:
    out(port.bus, LCR, 0x83)
    out(port.bus, DATA, 0x01)
    out(port.bus, IER, 0x02)
    assert (inb(port.bus, DATA), inb(port.bus, IER)) == (0x01, 0x02)
    out(port.bus, LCR, 0x03)
    assert inb(port.bus, IER) == 0
    assert port.sent == b""


def test_loop_back_returns_what_was_sent(port: Port) -> None:
    out(port.bus, MCR, 0x1A)
    out(port.bus, DATA, 0x5A)
    assert (inb(port.bus, DATA), bytes(port.sent)) == (0x5A, b"")
    assert inb(port.bus, MSR) == 0x90, "RTS is CTS, OUT2 is DCD"


def test_fifo_is_told_and_cleared(port: Port) -> None:
    assert inb(port.bus, IIR) & 0xC0 == 0
    port.uart.receive(bytes(20))
    out(port.bus, FCR, 0x03)
    assert inb(port.bus, IIR) & 0xC0 == 0xC0
    assert len([1 for _ in range(9) if inb(port.bus, LSR) & 1 and inb(port.bus, DATA) == 0]) == 4


def test_scratch_register_keeps_its_value(port: Port) -> None:
    out(port.bus, SCRATCH, 0x77)
    assert inb(port.bus, SCRATCH) == 0x77

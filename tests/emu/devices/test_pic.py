# SPDX-License-Identifier: MIT
"""Do the interrupt controllers ask for the right interrupt at the right time?"""

from __future__ import annotations

import pytest

from tests.emu.devices.board import inb, out
from vmipatch.emu.devices.bus import PortBus
from vmipatch.emu.devices.pic import MASTER_PORT, SLAVE_PORT, PicPair

EOI = 0x20


@pytest.fixture
def bus() -> PortBus:
    return PortBus()


@pytest.fixture
def pics(bus: PortBus) -> PicPair:
    """Initialised as Linux does: vectors 0x30 and 0x38, nothing masked."""
    pair = PicPair(bus)
    for port, base, cascade in ((MASTER_PORT, 0x30, 4), (SLAVE_PORT, 0x38, 2)):
        out(bus, port, 0x11)
        out(bus, port + 1, base, cascade, 0x01, 0x00)
    return pair


def test_nothing_is_pending_at_first(pics: PicPair) -> None:
    assert pics.pending_line() is None


def test_lower_lines_come_first(pics: PicPair) -> None:
    for line in (4, 1, 12):
        pics.set_line(line, True)
    order: list[tuple[int, int]] = []
    while (pending := pics.pending_line()) is not None:
        order.append((pending, pics.acknowledge(pending)))
        pics.master.write_command(EOI)
        if pending >= 8:
            pics.slave.write_command(EOI)
    assert order == [(1, 0x31), (12, 0x3C), (4, 0x34)]


def test_served_line_holds_back_lines_after_it_until_its_end(pics: PicPair, bus: PortBus) -> None:
    pics.set_line(3, True)
    pics.acknowledge(3)
    pics.set_line(4, True)
    assert pics.pending_line() is None
    pics.set_line(1, True)
    assert pics.pending_line() == 1
    pics.set_line(1, False)
    out(bus, MASTER_PORT, EOI | 0x40 | 3)
    assert pics.pending_line() == 4


def test_masked_line_waits(pics: PicPair, bus: PortBus) -> None:
    out(bus, MASTER_PORT + 1, 0x10)
    pics.set_line(4, True)
    assert pics.pending_line() is None
    assert inb(bus, MASTER_PORT + 1) == 0x10
    out(bus, MASTER_PORT + 1, 0x00)
    assert pics.pending_line() == 4


def test_edge_asks_once(pics: PicPair, bus: PortBus) -> None:
    pics.set_line(5, True)
    pics.acknowledge(5)
    out(bus, MASTER_PORT, EOI)
    pics.set_line(5, True)
    assert pics.pending_line() is None
    pics.pulse(5)
    assert pics.pending_line() == 5


def test_request_disappears_with_its_line(pics: PicPair) -> None:
    for line in (4, 9):
        pics.set_line(line, True)
        pics.set_line(line, False)
    assert pics.pending_line() is None


def test_two_requests_of_the_slave_are_served_one_after_the_other(
    pics: PicPair, bus: PortBus
) -> None:
    pics.set_line(8, True)
    pics.set_line(14, True)
    assert pics.acknowledge(8) == 0x38
    assert pics.pending_line() is None
    out(bus, SLAVE_PORT, EOI)
    out(bus, MASTER_PORT, EOI)
    assert pics.pending_line() == 14


def test_registers_show_requests_and_service(pics: PicPair, bus: PortBus) -> None:
    pics.set_line(6, True)
    assert inb(bus, MASTER_PORT) == 1 << 6
    pics.acknowledge(6)
    out(bus, MASTER_PORT, 0x0B)
    assert inb(bus, MASTER_PORT) == 1 << 6
    out(bus, MASTER_PORT, 0x0A)
    assert inb(bus, MASTER_PORT) == 0


def test_automatic_end_of_interrupt(bus: PortBus) -> None:
    pair = PicPair(bus)
    out(bus, MASTER_PORT, 0x11)
    out(bus, MASTER_PORT + 1, 0x30, 4, 0x03, 0x00)
    pair.set_line(0, True)
    pair.acknowledge(0)
    pair.pulse(1)
    assert pair.pending_line() == 1


def test_poll_acknowledges(pics: PicPair, bus: PortBus) -> None:
    pics.set_line(4, True)
    out(bus, MASTER_PORT, 0x0C)
    assert inb(bus, MASTER_PORT) == 0x84
    assert pics.pending_line() is None
    assert pics.master.in_service == 1 << 4

# SPDX-License-Identifier: MIT
"""Does an interrupt message reach exactly the processors that the SDM says it reaches?"""

from __future__ import annotations

import pytest

from tests.emu.devices.board import make_clock
from vmipatch.emu.devices.local_apic import (
    DFR,
    EOI,
    ICR,
    ICR_HIGH,
    ID,
    LDR,
    SVR,
    TMR,
    TPR,
    LocalApic,
)
from vmipatch.emu.devices.messages import MessageBus

FIXED, LOWEST, NMI, INIT, STARTUP = 0x000, 0x100, 0x400, 0x500, 0x600
LOGICAL, ASSERT, LEVEL = 1 << 11, 1 << 14, 1 << 15
SELF, ALL, OTHERS = 1 << 18, 2 << 18, 3 << 18
VECTOR = 0x51


class Starter:
    """Notes what its processor is asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def initialize(self) -> None:
        self.asked.append("init")

    def start_up(self, page: int) -> None:
        self.asked.append(f"startup {page:#x}")


class Apics:
    """Some processors on a bus, their APICs switched on, logical numbers as Linux gives them."""

    def __init__(self, count: int = 3) -> None:
        clock, bus = make_clock(), MessageBus()
        self.bus = bus
        self.starters = [Starter() for _ in range(count)]
        self.each = [LocalApic(clock, bus, n) for n in range(count)]
        for number, apic in enumerate(self.each):
            apic.processor = self.starters[number]
            apic.write(SVR, 0x1FF)
            apic.write(LDR, 1 << 24 + number)

    def send(self, sender: int, low: int, destination: int = 0) -> None:
        self.each[sender].write(ICR_HIGH, destination << 24)
        self.each[sender].write(ICR, low)

    def receivers(self) -> list[int]:
        """Where VECTOR waits."""
        return [n for n, apic in enumerate(self.each) if apic.requests >> VECTOR & 1]


@pytest.mark.parametrize(
    ("low", "destination", "expected"),
    [
        (FIXED, 2, [2]),
        (FIXED, 0xFF, [0, 1, 2]),
        (FIXED, 7, []),
        (FIXED | LOGICAL, 0b101, [0, 2]),
        (FIXED | LOGICAL, 0xFF, [0, 1, 2]),
        (FIXED | LOGICAL, 0b1000, []),
        (FIXED | SELF, 2, [1]),
        (FIXED | ALL, 0, [0, 1, 2]),
        (FIXED | OTHERS, 0, [0, 2]),
    ],
)
def test_destination_and_shorthand_name_processors(
    low: int, destination: int, expected: list[int]
) -> None:
    apics = Apics()
    apics.send(1, low | VECTOR, destination)
    assert apics.receivers() == expected


def test_clusters_are_told_apart() -> None:
    apics = Apics(4)
    for number, logical in enumerate((0x11, 0x12, 0x21, 0x24)):
        apics.each[number].write(DFR, 0x0FFFFFFF)
        apics.each[number].write(LDR, logical << 24)
    apics.send(0, FIXED | LOGICAL | VECTOR, 0x23)
    assert apics.receivers() == [2]
    apics.send(0, FIXED | LOGICAL | VECTOR, 0xF2)
    assert apics.receivers() == [1, 2]


def test_lowest_priority_goes_to_one_the_least_busy() -> None:
    apics = Apics()
    apics.each[0].write(TPR, 0x40)
    apics.each[1].write(TPR, 0x20)
    apics.each[2].write(TPR, 0x20)
    apics.send(0, LOWEST | LOGICAL | VECTOR, 0b111)
    assert apics.receivers() == [1]


def test_apic_that_is_off_takes_no_vector_and_still_starts() -> None:
    apics = Apics(2)
    apics.each[1].write(SVR, 0xFF)
    apics.send(0, FIXED | VECTOR, 1)
    apics.send(0, STARTUP | 0x9A, 1)
    assert apics.receivers() == []
    assert apics.starters[1].asked == ["startup 0x9a"]


def test_init_resets_the_apic_but_for_its_number_and_deassertion_does_nothing() -> None:
    apics = Apics(2)
    apics.send(1, FIXED | VECTOR, 1)
    apics.send(0, INIT | LEVEL, 1)  # Linux calls that "Deasserting INIT"
    assert apics.starters[1].asked == []
    assert apics.receivers() == [1]
    apics.send(0, INIT | LEVEL | ASSERT, 1)
    assert apics.starters[1].asked == ["init"]
    assert apics.receivers() == []
    assert apics.each[1].read(ID) == 1 << 24
    assert apics.each[1].read(SVR) == 0xFF
    assert apics.each[1].read(LDR) == 0
    assert apics.starters[0].asked == []


def test_nmi_waits_whatever_the_vector_and_the_priority_are() -> None:
    apics = Apics(2)
    apics.each[1].write(TPR, 0xFF)
    apics.send(0, NMI, 1)
    assert apics.each[1].nmi_waits
    assert apics.each[1].requests == 0
    assert not apics.each[0].nmi_waits


def test_delivery_status_reads_as_sent() -> None:
    apics = Apics(2)
    apics.send(0, FIXED | 1 << 12 | VECTOR, 1)
    assert apics.each[0].read(ICR) == VECTOR


def test_end_of_a_level_interrupt_is_told_and_of_an_edge_not() -> None:
    apics = Apics(1)
    ended: list[int] = []
    apics.bus.on_end_of_interrupt(ended.append)
    for low in (FIXED | VECTOR, FIXED | LEVEL | ASSERT | VECTOR):
        apics.send(0, low)
        level = apics.each[0].read(TMR + (VECTOR >> 5) * 0x10) >> (VECTOR & 31) & 1
        assert level == bool(low & LEVEL)
        apics.each[0].acknowledge(VECTOR)
        apics.each[0].write(EOI, 0)
    assert ended == [VECTOR]

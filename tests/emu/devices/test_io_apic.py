# SPDX-License-Identifier: MIT
"""Does the I/O APIC do what the sheet of the 82093AA says?"""

from __future__ import annotations

from tests.emu.devices.board import make_clock
from vmipatch.emu.devices.io_apic import SELECT, WINDOW, IoApic, pin_of
from vmipatch.emu.devices.local_apic import EOI, LDR, SVR, LocalApic
from vmipatch.emu.devices.messages import MessageBus

MASKED, LEVEL, REMOTE_IRR, LOGICAL = 1 << 16, 1 << 15, 1 << 14, 1 << 11
VECTOR = 0x31
PIN = 4


class Wired:
    """Two processors and an I/O APIC."""

    def __init__(self) -> None:
        clock, bus = make_clock(), MessageBus()
        self.locals = [LocalApic(clock, bus, number) for number in range(2)]
        for number, local in enumerate(self.locals):
            local.write(SVR, 0x1FF)
            local.write(LDR, 1 << 24 + number)
        self.io = IoApic(bus, 2)

    def read(self, register: int) -> int:
        self.io.write(SELECT, register)
        return self.io.read(WINDOW)

    def route(self, pin: int, low: int, destination: int = 0) -> None:
        for register, value in ((0x11 + 2 * pin, destination << 24), (0x10 + 2 * pin, low)):
            self.io.write(SELECT, register)
            self.io.write(WINDOW, value)

    def pulse(self, pin: int) -> None:
        self.io.set_line(pin, False)
        self.io.set_line(pin, True)

    def waiting(self) -> list[int]:
        return [number for number, local in enumerate(self.locals) if local.requests]

    def serve(self, number: int) -> None:
        self.locals[number].acknowledge(VECTOR)
        self.locals[number].write(EOI, 0)


def test_registers_read_as_the_sheet_says() -> None:
    wired = Wired()
    assert wired.read(0) == 2 << 24
    assert wired.read(1) == 0x00170011
    assert [wired.read(register) for register in (0x10, 0x11, 0x3E, 0x3F)] == [MASKED, 0] * 2
    assert wired.read(0x40) == 0
    wired.io.write(SELECT, 0)
    wired.io.write(WINDOW, 0xFFFFFFFF)
    assert wired.read(0) == 0x0F000000
    wired.route(0, 0xFFFFFFFF, 0xAB)
    assert wired.read(0x10) == 0x0001AFFF  # delivery status and remote IRR are the chip's
    assert wired.read(0x11) == 0xAB000000


def test_edge_goes_to_the_destination_once() -> None:
    wired = Wired()
    wired.route(PIN, VECTOR, 1)
    wired.io.set_line(PIN, True)
    wired.io.set_line(PIN, True)
    assert wired.waiting() == [1]
    wired.serve(1)
    assert wired.waiting() == []
    wired.pulse(PIN)
    assert wired.waiting() == [1]


def test_logical_destination_reaches_its_set() -> None:
    wired = Wired()
    wired.route(PIN, VECTOR | LOGICAL, 0b11)
    wired.pulse(PIN)
    assert wired.waiting() == [0, 1]


def test_edge_at_a_masked_pin_is_lost() -> None:
    wired = Wired()
    wired.route(PIN, VECTOR | MASKED)
    wired.io.set_line(PIN, True)
    wired.route(PIN, VECTOR)
    assert wired.waiting() == []
    wired.pulse(PIN)
    assert wired.waiting() == [0]


def test_level_asks_again_until_the_line_falls() -> None:
    wired = Wired()
    wired.route(PIN, VECTOR | LEVEL)
    wired.io.set_line(PIN, True)
    assert wired.waiting() == [0]
    assert wired.read(0x10 + 2 * PIN) == VECTOR | LEVEL | REMOTE_IRR
    wired.serve(0)
    assert wired.waiting() == [0]
    wired.io.set_line(PIN, False)
    wired.serve(0)
    assert wired.waiting() == []
    assert wired.read(0x10 + 2 * PIN) == VECTOR | LEVEL


def test_level_that_was_asserted_while_masked_comes_when_the_mask_goes() -> None:
    wired = Wired()
    wired.route(PIN, VECTOR | LEVEL | MASKED)
    wired.io.set_line(PIN, True)
    assert wired.waiting() == []
    wired.route(PIN, VECTOR | LEVEL)
    assert wired.waiting() == [0]


def test_end_of_another_vector_does_not_ask_again() -> None:
    wired = Wired()
    wired.route(PIN, VECTOR | LEVEL)
    wired.route(PIN + 1, VECTOR + 0x10)
    wired.io.set_line(PIN, True)
    wired.locals[0].acknowledge(VECTOR)
    wired.pulse(PIN + 1)
    wired.locals[0].acknowledge(VECTOR + 0x10)
    wired.locals[0].write(EOI, 0)
    assert wired.waiting() == []


def test_nmi_of_a_pin_is_one() -> None:
    wired = Wired()
    wired.route(PIN, 0x400, 1)
    wired.pulse(PIN)
    assert [local.nmi_waits for local in wired.locals] == [False, True]


def test_the_timer_is_at_pin_2_and_all_other_lines_at_their_own() -> None:
    assert [pin_of(line) for line in (0, 1, 4, 15)] == [2, 1, 4, 15]

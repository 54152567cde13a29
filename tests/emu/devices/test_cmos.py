# SPDX-License-Identifier: MIT
"""Does the clock in the CMOS follow virtual time?"""

from __future__ import annotations

from tests.emu.devices.board import advance, inb, make_clock, out
from vmipatch.emu.clock import NS_PER_S
from vmipatch.emu.devices.bus import PortBus
from vmipatch.emu.devices.cmos import DATA_PORT, INDEX_PORT, POWER_ON, Cmos


def read(bus: PortBus, index: int) -> int:
    out(bus, INDEX_PORT, index)
    return inb(bus, DATA_PORT)


def test_date_is_packed_decimal_and_goes_on() -> None:
    clock, bus = make_clock(), PortBus()
    Cmos(clock, bus)
    assert read(bus, 0x09) == int(f"{POWER_ON.year % 100}", 16)
    assert read(bus, 0x32) == 0x20
    advance(clock, 83 * NS_PER_S)
    assert (read(bus, 0x02), read(bus, 0x00)) == (0x01, 0x23)


def test_binary_mode() -> None:
    clock, bus = make_clock(), PortBus()
    Cmos(clock, bus)
    out(bus, INDEX_PORT, 0x0B)
    out(bus, DATA_PORT, 0x06)
    advance(clock, 45 * NS_PER_S)
    assert read(bus, 0x00) == 45


def test_no_update_is_in_progress_and_the_battery_is_good() -> None:
    clock, bus = make_clock(), PortBus()
    Cmos(clock, bus)
    assert not read(bus, 0x0A) & 0x80
    assert read(bus, 0x0D) & 0x80


def test_memory_keeps_what_is_written() -> None:
    clock, bus = make_clock(), PortBus()
    Cmos(clock, bus)
    out(bus, INDEX_PORT, 0x40)
    out(bus, DATA_PORT, 0x99)
    assert read(bus, 0x40) == 0x99


def test_sizes_of_memory_are_there_where_a_bios_notes_them() -> None:
    def noted(ram_len: int) -> tuple[int, ...]:
        clock, bus = make_clock(), PortBus()
        Cmos(clock, bus, ram_len)
        return tuple(read(bus, at) | read(bus, at + 1) << 8 for at in (0x15, 0x17, 0x30, 0x34))

    assert noted(8 << 20) == (640, 7 << 10, 7 << 10, 0)
    assert noted(128 << 20) == (640, 0xFC00, 0xFC00, (112 << 20) >> 16)
    assert noted(0) == (0, 0, 0, 0), "Linux is told otherwise"

# SPDX-License-Identifier: MIT
"""Do the fixed registers of ACPI switch the PC off, and does their timer count?"""

from __future__ import annotations

from tests.emu.devices.board import advance, make_clock
from vmipatch.emu.clock import Clock
from vmipatch.emu.devices.bus import PortBus
from vmipatch.emu.devices.power import PowerManagement

EVENT, CONTROL, TIMER = 0x600, 0x604, 0x608
S5, SLEEP = 5 << 10, 1 << 13


def wired() -> tuple[PortBus, Clock, list[str]]:
    bus, clock = PortBus(), make_clock()
    said: list[str] = []
    PowerManagement(bus, clock, lambda: said.append("off"))
    return bus, clock, said


def test_machine_is_in_acpi_mode_and_stays_there() -> None:
    bus, _, _ = wired()
    assert bus.read(CONTROL, 2) == 1
    bus.write(CONTROL, 2, 0)
    assert bus.read(CONTROL, 2) == 1


def test_sleep_enable_with_the_type_of_s5_switches_off() -> None:
    bus, _, said = wired()
    bus.write(CONTROL, 2, S5 | 1)  # as Linux does it: the type, then the type and the order
    assert said == []
    bus.write(CONTROL, 2, S5 | SLEEP | 1)
    assert said == ["off"]
    assert bus.read(CONTROL, 2) == S5 | 1  # the order reads as 0


def test_other_types_of_sleep_do_nothing() -> None:
    bus, _, said = wired()
    for kind in (0, 1, 2, 3, 4, 6, 7):
        bus.write(CONTROL, 2, kind << 10 | SLEEP)
    assert said == []


def test_no_event_ever_comes_and_the_enable_register_is_kept() -> None:
    bus, _, _ = wired()
    bus.write(EVENT, 2, 0xFFFF)
    bus.write(EVENT + 2, 2, 0x0120)
    assert bus.read(EVENT, 4) == 0x0120_0000


def test_timer_counts_with_its_frequency_and_wraps_at_24_bits() -> None:
    bus, clock, _ = wired()
    assert bus.read(TIMER, 4) == 0
    advance(clock, 1_000_000_000)
    assert bus.read(TIMER, 4) == 3_579_545
    advance(clock, 4_000_000_000)
    assert bus.read(TIMER, 4) == 5 * 3_579_545 - (1 << 24)

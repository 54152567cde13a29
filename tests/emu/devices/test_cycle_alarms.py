# SPDX-License-Identifier: MIT
"""Do VMI's alarms ring when they should, and the local APIC with them?"""

from __future__ import annotations

from tests.emu.devices.board import make_clock as clock
from vmipatch.emu.clock import Clock
from vmipatch.emu.devices.bus import PortBus
from vmipatch.emu.devices.cycle_alarms import BY_LVTT, IS_PERIODIC, NEVER, CycleAlarms
from vmipatch.emu.devices.interrupts import LOCAL, Interrupts
from vmipatch.emu.devices.local_apic import COUNT, CURRENT, EOI, LINT0, LVTT, SVR, TPR, LocalApic
from vmipatch.emu.devices.pci import ADDRESS_PORT, PciConfiguration
from vmipatch.emu.devices.pic import PicPair

PERIOD = 1_000_000
VECTOR = 0x41


def alarms(time: Clock) -> tuple[CycleAlarms, list[str]]:
    rung: list[str] = []
    made = CycleAlarms(time, lambda: rung.append("line"), lambda: rung.append("lvtt"))
    return made, rung


def test_periodic_alarm_rings_on_its_grid_and_once_for_what_it_missed() -> None:
    time = clock()
    made, rung = alarms(time)
    made.set(IS_PERIODIC, 0, PERIOD)
    time.run_due()
    assert rung == ["line"]
    time.pass_ns(5 * PERIOD + 1)
    time.run_due()
    assert rung == ["line"] * 2
    assert time.next_due_ns == 6 * PERIOD


def test_alarm_without_a_period_rings_once_even_if_it_says_periodic() -> None:
    time = clock()
    made, rung = alarms(time)
    made.set(IS_PERIODIC | BY_LVTT, PERIOD, 0)
    time.pass_ns(3 * PERIOD)
    time.run_due()
    assert rung == ["lvtt"]
    assert not made.cancel(0)


def test_counters_have_alarms_of_their_own_and_stolen_time_none() -> None:
    made, _ = alarms(clock())
    made.set(0, PERIOD, 0)
    made.set(2, PERIOD, 0)
    assert not made.cancel(1)
    assert not made.cancel(2)
    assert made.cancel(0)
    assert not made.cancel(0)


def test_alarm_beyond_all_time_is_armed_and_does_not_wake() -> None:
    time = clock()
    made, _ = alarms(time)
    made.set(0, NEVER, 0)
    assert time.next_due_ns is None
    assert made.cancel(0)


def test_new_alarm_takes_the_place_of_the_old_one() -> None:
    time = clock()
    made, rung = alarms(time)
    made.set(0, PERIOD, 0)
    made.set(0, 3 * PERIOD, 0)
    time.pass_ns(2 * PERIOD)
    time.run_due()
    assert rung == []


def test_apic_serves_by_priority_and_ends_the_highest() -> None:
    apic = LocalApic(clock())
    apic.write(SVR, 0x1FF)
    apic.request(0x30)
    apic.request(VECTOR)
    assert apic.pending_vector() == VECTOR
    apic.acknowledge(VECTOR)
    assert apic.pending_vector() is None
    apic.write(EOI, 0)
    assert apic.pending_vector() == 0x30
    apic.write(TPR, 0x30)
    assert apic.pending_vector() is None


def test_apic_timer_rings_by_lvtt_unless_masked() -> None:
    time = clock()
    apic = LocalApic(time)
    apic.write(SVR, 0x1FF)
    apic.write(COUNT, 1000)  # of 20 ns
    time.pass_ns(10_000)
    assert apic.read(CURRENT) == 500
    time.pass_ns(10_000)
    time.run_due()
    assert apic.pending_vector() is None
    apic.write(LVTT, VECTOR)
    apic.ring_timer()
    assert apic.pending_vector() == VECTOR


def test_lines_of_the_at_come_in_by_lint0_once_the_apic_is_on() -> None:
    bus = PortBus()
    pic, apic = PicPair(bus), LocalApic(clock())
    both = Interrupts(pic, apic)
    pic.master.mask = 0
    pic.pulse(0)
    assert both.pending_line() == 0
    apic.write(SVR, 0x1FF)
    assert both.pending_line() is None
    apic.write(LINT0, 0x700)
    assert both.pending_line() == 0
    apic.request(VECTOR)
    line = both.pending_line()
    assert line == LOCAL | VECTOR
    assert both.acknowledge(line) == VECTOR
    assert apic.service == 1 << VECTOR


def test_pci_address_reads_back_and_no_device_answers() -> None:
    bus = PortBus()
    PciConfiguration(bus)
    bus.write(ADDRESS_PORT, 4, 0x80000403)
    assert bus.read(ADDRESS_PORT, 4) == 0x80000400
    assert bus.read(ADDRESS_PORT + 4, 4) == 0xFFFFFFFF
    assert bus.read(ADDRESS_PORT, 1) == 0xFF

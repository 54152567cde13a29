# SPDX-License-Identifier: MIT
"""Does the timer count and tick at 1.193182 MHz?"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from tests.emu.devices.board import advance, inb, make_clock, out
from vmipatch.emu.clock import NS_PER_S, Clock
from vmipatch.emu.devices.bus import PortBus
from vmipatch.emu.devices.pit import COMMAND_PORT, FIRST_PORT, GATE_PORT, INPUT_HZ, Pit8254


@dataclass
class Timer:
    """The chip with what is around it."""

    clock: Clock = field(default_factory=make_clock)
    bus: PortBus = field(default_factory=PortBus)
    ticks: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pit = Pit8254(self.clock, self.bus, lambda: self.ticks.append(self.clock.now_ns))

    def program(self, channel: int, mode: int, count: int) -> None:
        """Access both bytes, as everybody does."""
        out(self.bus, COMMAND_PORT, channel << 6 | 0x30 | mode << 1)
        out(self.bus, FIRST_PORT + channel, count & 0xFF, count >> 8)

    def count(self, channel: int) -> int:
        """Latch and read."""
        out(self.bus, COMMAND_PORT, channel << 6)
        low = inb(self.bus, FIRST_PORT + channel)
        return low | inb(self.bus, FIRST_PORT + channel) << 8


@pytest.fixture
def timer() -> Timer:
    return Timer()


@pytest.mark.parametrize("mode", [2, 3])
def test_periodic_timer_ticks_at_its_rate_and_does_not_drift(timer: Timer, mode: int) -> None:
    timer.program(0, mode, INPUT_HZ // 100)
    advance(timer.clock, 10 * NS_PER_S)
    period_ns = (INPUT_HZ // 100) * NS_PER_S / INPUT_HZ
    assert len(timer.ticks) == 10 * NS_PER_S // period_ns
    assert all(abs(at - (i + 1) * period_ns) <= 1 for i, at in enumerate(timer.ticks))


@pytest.mark.parametrize("mode", [0, 4])
def test_one_shot_ticks_once(timer: Timer, mode: int) -> None:
    timer.program(0, mode, 1193)
    advance(timer.clock, NS_PER_S)
    assert len(timer.ticks) == 1


def test_new_mode_stops_the_ticks(timer: Timer) -> None:
    timer.program(0, 2, 1193)
    out(timer.bus, COMMAND_PORT, 0x30)
    advance(timer.clock, NS_PER_S)
    assert timer.ticks == []


def test_ticks_that_came_too_late_to_be_seen_are_one(timer: Timer) -> None:
    timer.program(0, 2, 1193)
    timer.clock.at(NS_PER_S // 100, lambda: None)
    timer.pit.channels[0].start_ns -= NS_PER_S  # as if the CPU had not stopped for a second
    timer.clock.run_due()
    advance(timer.clock, NS_PER_S // 100)
    assert 9 <= len(timer.ticks) <= 12


def test_count_goes_down(timer: Timer) -> None:
    timer.program(0, 2, 10_000)
    advance(timer.clock, 1_000_000)
    assert timer.count(0) == 10_000 - INPUT_HZ // 1000


def test_latched_count_stands_still(timer: Timer) -> None:
    timer.program(0, 2, 60_000)
    out(timer.bus, COMMAND_PORT, 0x00)
    advance(timer.clock, 5_000_000)
    low = inb(timer.bus, FIRST_PORT)
    assert low | inb(timer.bus, FIRST_PORT) << 8 == 60_000


def test_third_channel_measures_time_through_its_gate(timer: Timer) -> None:
    """As kernels calibrate the TSC: mode 0, gate on, wait for bit 5 of port 61h."""
    out(timer.bus, GATE_PORT, 0x01)
    timer.program(2, 0, 59_659)
    assert not inb(timer.bus, GATE_PORT) & 0x20
    advance(timer.clock, 49_999_000)
    assert not inb(timer.bus, GATE_PORT) & 0x20
    advance(timer.clock, 10_000)
    assert inb(timer.bus, GATE_PORT) & 0x20


def test_gate_holds_the_count(timer: Timer) -> None:
    out(timer.bus, GATE_PORT, 0x01)
    timer.program(2, 0, 50_000)
    advance(timer.clock, 1_000_000)
    out(timer.bus, GATE_PORT, 0x00)
    held = timer.count(2)
    advance(timer.clock, 20_000_000)
    assert timer.count(2) == held
    out(timer.bus, GATE_PORT, 0x01)
    advance(timer.clock, 1_000_000)
    assert timer.count(2) == pytest.approx(held - INPUT_HZ // 1000, abs=1)


def test_read_back_tells_the_mode(timer: Timer) -> None:
    timer.program(0, 2, 1000)
    out(timer.bus, COMMAND_PORT, 0xE2)
    assert inb(timer.bus, FIRST_PORT) & 0x3F == 0x34

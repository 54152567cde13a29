# SPDX-License-Identifier: MIT
"""When does the timer tick? The 8253/8254 of a PC, with port 61h for its third channel.

Source: Intel 8254 data sheet; IBM PC/AT Technical Reference for port 61h. Channel 0 drives
interrupt line 0, channel 1 (memory refresh) counts unheard, channel 2 is the speaker's and the one
that kernels measure clocks with. Counts are computed from the clock when somebody looks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from vmipatch.emu.clock import NS_PER_S, Alarm, Clock
from vmipatch.emu.devices.bus import PortBus

INPUT_HZ: Final = 1_193_182
FIRST_PORT, COMMAND_PORT, GATE_PORT = 0x40, 0x43, 0x61
_LOW, _HIGH, _BOTH = 1, 2, 3
_MAX_COUNT = 0x10000
_THOUSAND: Final = 1000


class Channel:
    """One counter."""

    def __init__(self, clock: Clock, restarted: Callable[[], None]) -> None:
        """`restarted` is called whenever a count begins or a mode is set."""
        self._clock = clock
        self._restarted = restarted
        self.mode = 3
        self.reload = _MAX_COUNT
        self.running = False
        self.start_ns = 0
        self._access = _BOTH
        self._latched: int | None = None
        self._status: int | None = None
        self._write_low: int | None = None
        self._read_high = False
        self._gate = True
        self._paused_ticks = 0

    @property
    def is_periodic(self) -> bool:
        """Whether the mode repeats (2, rate generator, and 3, square wave)."""
        return self.mode in (2, 3)

    @property
    def gate(self) -> bool:
        """The input that allows counting."""
        return self._gate

    @gate.setter
    def gate(self, high: bool) -> None:
        rises = high and not self._gate
        if self._gate and not high:
            self._paused_ticks = self.ticks()
        self._gate = high
        if rises and self.mode in (0, 4):
            self.start_ns = self._clock.now_ns - _ns_of(self._paused_ticks)
        elif rises:
            self._begin()

    def ticks(self) -> int:
        """Input cycles since the count began."""
        if not self._gate and self.mode in (0, 2, 3, 4):
            return self._paused_ticks
        return (self._clock.now_ns - self.start_ns) * INPUT_HZ // NS_PER_S

    def count(self) -> int:
        """The counter's value."""
        ticks, reload = self.ticks(), self.reload
        if self.mode == 2:
            return reload - ticks % reload & 0xFFFF
        if self.mode == 3:
            return reload - 2 * ticks % reload & 0xFFFE
        return reload - ticks & 0xFFFF

    def output(self) -> bool:
        """The level of the output."""
        ticks = self.ticks()
        if self.mode in (0, 1):
            return self.running and ticks >= self.reload
        if self.mode == 2:
            return ticks % self.reload != self.reload - 1
        if self.mode == 3:
            return ticks % self.reload < (self.reload + 1) // 2
        return ticks != self.reload

    def expiry_ns(self, periods: int) -> int:
        """When the count has run out for the `periods`-th time."""
        return self.start_ns + _ns_of(self.reload * periods)

    def command(self, value: int) -> None:
        """A control word for this channel."""
        access = value >> 4 & 3
        if access == 0:
            self.latch()
            return
        mode = value >> 1 & 7
        self.mode = mode - 4 if mode > 5 else mode
        self._access = access
        self._latched = self._status = self._write_low = None
        self._read_high = False
        self.running = False
        self._restarted()

    def latch(self) -> None:
        """Keep the count for the next reading."""
        if self._latched is None:
            self._latched = self.count()

    def latch_status(self) -> None:
        """Keep output, access and mode for the next reading."""
        if self._status is None:
            null_count = 0 if self.running else 0x40
            self._status = self.output() << 7 | null_count | self._access << 4 | self.mode << 1

    def write(self, value: int) -> None:
        """A byte of the count."""
        if self._access == _LOW:
            self._load(value)
        elif self._access == _HIGH:
            self._load(value << 8)
        elif self._write_low is None:
            self._write_low = value
        else:
            low, self._write_low = self._write_low, None
            self._load(low | value << 8)

    def read(self) -> int:
        """A byte of the status, of the latched count, or of the count."""
        if self._status is not None:
            status, self._status = self._status, None
            return status
        count = self.count() if self._latched is None else self._latched
        if self._access == _BOTH and not self._read_high:
            self._read_high = True
            self._latched = count
            return count & 0xFF
        self._read_high = False
        self._latched = None
        return count & 0xFF if self._access == _LOW else count >> 8

    def _load(self, count: int) -> None:
        self.reload = count or _MAX_COUNT
        self._paused_ticks = 0
        self._begin()

    def _begin(self) -> None:
        self.start_ns = self._clock.now_ns
        self.running = True
        self._restarted()


class Pit8254:
    """The timer chip and the port that gates its third channel."""

    def __init__(
        self, clock: Clock, bus: PortBus, tick: Callable[[], None], *, shift: int = 0
    ) -> None:
        """`tick` is called when channel 0's output rises, or `shift` thousandths of its period
        later: for the guest, that is a timer that was started at another moment.
        """
        self._shift = shift
        self._clock = clock
        self._tick = tick
        self._alarm: Alarm | None = None
        self._periods = 0
        self._speaker = 0
        self.channels = (
            Channel(clock, self._schedule),
            Channel(clock, lambda: None),
            Channel(clock, lambda: None),
        )
        self.channels[2].gate = False
        for number, channel in enumerate(self.channels):
            bus.claim(FIRST_PORT + number, channel.read, channel.write)
        bus.claim(COMMAND_PORT, None, self._command)
        bus.claim(GATE_PORT, self._read_gate, self._write_gate)

    def _command(self, value: int) -> None:
        if value >> 6 < 3:
            self.channels[value >> 6].command(value)
            return
        for number, channel in enumerate(self.channels):
            if value & 2 << number:
                if not value & 0x20:
                    channel.latch()
                if not value & 0x10:
                    channel.latch_status()

    def _read_gate(self) -> int:
        channel = self.channels[2]
        refresh = self._clock.now_ns // 15_085 & 1
        return channel.output() << 5 | refresh << 4 | self._speaker << 1 | channel.gate

    def _write_gate(self, value: int) -> None:
        self.channels[2].gate = bool(value & 1)
        self._speaker = value >> 1 & 1

    def _schedule(self) -> None:
        """Channel 0 has begun to count, or has been stopped."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._periods = 0
        if self.channels[0].running:
            self._set_alarm()

    def _set_alarm(self) -> None:
        self._periods += 1
        channel = self.channels[0]
        late_ns = _ns_of(channel.reload * self._shift) // _THOUSAND
        self._alarm = self._clock.at(channel.expiry_ns(self._periods) + late_ns, self._expired)

    def _expired(self) -> None:
        channel = self.channels[0]
        if channel.is_periodic:
            # Ticks that can no longer be seen are left out, as edges of a line that is high.
            missed = channel.ticks() // channel.reload
            self._periods = max(self._periods, missed)
            self._set_alarm()
        self._tick()


def _ns_of(ticks: int) -> int:
    """The first nanosecond at which so many input cycles have passed."""
    return -(-ticks * NS_PER_S // INPUT_HZ)

# SPDX-License-Identifier: MIT
"""When do VMI's alarms ring? One for each counter of cycles, by interrupt line 0 or by LVTT.

Source: VMI specification 2.0, chapter on time; vmiclock_32.c of Linux 2.6.32. A periodic alarm that
was missed rings once, and goes on after the present on its own grid.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vmipatch.emu.clock import NS_PER_S, Alarm, Clock
from vmipatch.vmi.shared import CYCLES_HZ

assert CYCLES_HZ == NS_PER_S, "a cycle is a nanosecond of the clock"

COUNTER_MASK: Final = 0xFF
IS_PERIODIC: Final = 0x100
BY_LVTT: Final = 0x10000
NEVER: Final = 1 << 60
"""Cycles that no run lives to see: an alarm beyond them is armed, and does not ring."""
LEAST_PERIOD: Final = 10_000
"""A shorter one would leave the guest no time between two interrupts."""


class Counter(enum.IntEnum):
    """Counters that an alarm can watch; they run alike, and stolen time has none."""

    REAL = 0
    AVAILABLE = 1


@dataclass(slots=True)
class _Armed:
    expiry: int
    period: int
    """0: it rings once."""
    ring: Callable[[], None]
    alarm: Alarm | None = None


class CycleAlarms:
    """The two alarms of one processor."""

    def __init__(
        self, clock: Clock, ring_line: Callable[[], None], ring_lvtt: Callable[[], None]
    ) -> None:
        """`ring_line` pulses interrupt line 0, `ring_lvtt` is the local APIC's timer interrupt."""
        self._clock = clock
        self._ring_line = ring_line
        self._ring_lvtt = ring_lvtt
        self._armed: dict[Counter, _Armed] = {}

    def set(self, flags: int, expiry: int, period: int) -> None:
        """SetAlarm: `expiry` and `period` in cycles; nothing happens for other counters."""
        counter = _counter(flags)
        if counter is None:
            return
        self.cancel(flags)
        wanted = period if flags & IS_PERIODIC else 0
        period = max(wanted, LEAST_PERIOD) if wanted else 0
        ring = self._ring_lvtt if flags & BY_LVTT else self._ring_line
        self._armed[counter] = _Armed(expiry, period, ring)
        self._wind(counter)

    def cancel(self, flags: int) -> bool:
        """CancelAlarm: whether it was armed."""
        counter = _counter(flags)
        armed = None if counter is None else self._armed.pop(counter, None)
        if armed is None:
            return False
        if armed.alarm is not None:
            armed.alarm.cancel()
        return True

    def _wind(self, counter: Counter) -> None:
        armed = self._armed[counter]
        armed.alarm = None
        if armed.expiry < NEVER:
            armed.alarm = self._clock.at(armed.expiry, lambda: self._expired(counter))

    def _expired(self, counter: Counter) -> None:
        armed = self._armed[counter]
        if armed.period:
            missed = max(0, self._clock.now_ns - armed.expiry) // armed.period
            armed.expiry += (missed + 1) * armed.period
            self._wind(counter)
        else:
            del self._armed[counter]
        armed.ring()


def _counter(flags: int) -> Counter | None:
    number = flags & COUNTER_MASK
    return Counter(number) if number in set(Counter) else None

# SPDX-License-Identifier: MIT
"""What time is it in the guest? Nanoseconds that derive from executed code alone.

    now = executed bytes of code * NS_PER_BYTE + skew

The skew grows when the CPU sleeps (up to the next event) and with each reading of the time-stamp
counter, so that loops that wait for the clock end soon. No host clock is ever read: two runs of a
guest see the same times. The TSC is this clock, at 1 GHz.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from vmipatch.vmi.shared import TSC_STEP, Time

NS_PER_BYTE: Final = 15
"""An instruction of 3.3 bytes takes 50 ns: about what Unicorn gives, so that idle hosts keep up."""
NS_PER_S: Final = 1_000_000_000
MAX_SLICE: Final = 150_000
"""Bytes of code after which the host gets its turn even if nothing is due."""

_MANY: Final = 64
"""Alarms, cancelled ones included, from which on it is worth to look for those."""
_LEFT, _BASE, _SKEW = Time.LEFT >> 3, Time.BASE >> 3, Time.SKEW >> 3
_SEQUENCE = Time.SEQUENCE >> 2
CELLS_LEN: Final = 32
"""Bytes of the cells, as vmipatch.vmi.shared.Time lists them."""


@dataclass(slots=True, order=True)
class Alarm:
    """A call that is due at a time; the earlier one of two at the same time was set first."""

    due_ns: int
    number: int
    call: Callable[[], None] = field(compare=False)
    cancelled: bool = field(default=False, compare=False)

    def cancel(self) -> None:
        """Do not call."""
        self.cancelled = True


class Clock:
    """Virtual time, and who is to be called when.

    The clock *is* the cells: memory of CELLS_LEN bytes where the block counter counts LEFT down.
    A guest that reads the time itself gets a copy of them, which is never read back.
    """

    def __init__(self, cells: memoryview, copy: memoryview | None = None) -> None:
        """`cells`, and `copy` for the guest: at least CELLS_LEN bytes each."""
        self._octets = cells[:CELLS_LEN]
        self._cells = self._octets.cast("q")
        self._words = self._octets.cast("I")
        self._copy = None if copy is None else copy[:CELLS_LEN]
        self._words[Time.SCALE >> 2] = NS_PER_BYTE
        self._alarms: list[Alarm] = []
        self._many = _MANY
        self._numbers = 0
        self.guest_ns: Callable[[], int] | None = None
        """Time that the guest itself added by reading the counter without our help, if it does."""

    @property
    def now_ns(self) -> int:
        """Nanoseconds since the machine was switched on."""
        cells = self._cells
        now = (cells[_BASE] - cells[_LEFT]) * NS_PER_BYTE + cells[_SKEW]
        return now if self.guest_ns is None else now + self.guest_ns()

    @property
    def executed_len(self) -> int:
        """Bytes of code executed so far."""
        return self._cells[_BASE] - self._cells[_LEFT]

    def read_tsc(self) -> int:
        """The time-stamp counter; time goes on a fixed step with each reading."""
        cells = self._cells
        cells[_SKEW] += TSC_STEP
        self._changed()
        now_ns, alarms = self.now_ns, self._alarms
        # Loops that wait read it ten thousands of times in a boot: nearly always before the end
        # of the slice, which the first alarm has made.
        if alarms and alarms[0].due_ns < now_ns + cells[_LEFT] * NS_PER_BYTE:
            self._limit_slice()
        return now_ns

    def at(self, due_ns: int, call: Callable[[], None]) -> Alarm:
        """Call at that time, or as soon as possible if it has passed."""
        if len(self._alarms) >= self._many:
            self._forget_cancelled()
        self._numbers += 1
        alarm = Alarm(due_ns, self._numbers, call)
        heapq.heappush(self._alarms, alarm)
        self._limit_slice()
        return alarm

    def _forget_cancelled(self) -> None:
        """Who sets and cancels for ever must not fill the host's memory."""
        self._alarms = [alarm for alarm in self._alarms if not alarm.cancelled]
        heapq.heapify(self._alarms)
        self._many = 2 * len(self._alarms) + _MANY

    @property
    def next_due_ns(self) -> int | None:
        """When the next alarm is due, or None."""
        alarms = self._alarms
        while alarms and alarms[0].cancelled:
            heapq.heappop(alarms)
        return alarms[0].due_ns if alarms else None

    def run_due(self) -> None:
        """Make the calls that are due, in order."""
        while (due_ns := self.next_due_ns) is not None and due_ns <= self.now_ns:
            heapq.heappop(self._alarms).call()

    def grant_slice(self, most_len: int = MAX_SLICE) -> None:
        """Allow the CPU to run to the next alarm, but no further than `most_len` bytes of code."""
        self._set_left(most_len)
        self._limit_slice()

    def _limit_slice(self) -> None:
        """Let what is left of a slice end when the next alarm is due, if that is earlier."""
        due_ns = self.next_due_ns
        if due_ns is not None:
            until_due = max(1, -((self.now_ns - due_ns) // NS_PER_BYTE))
            if until_due < self._cells[_LEFT]:
                self._set_left(until_due)

    def _set_left(self, length: int) -> None:
        """Change LEFT without a change of the time."""
        cells = self._cells
        cells[_BASE] += length - cells[_LEFT]
        cells[_LEFT] = length
        self._changed()

    def end_slice(self) -> None:
        """Let the CPU stop at the next block: the one way out of a callback in mid-instruction."""
        self._set_left(0)

    def sleep(self) -> bool:
        """Skip to the next alarm. False without one: it would sleep for ever."""
        due_ns = self.next_due_ns
        if due_ns is None:
            return False
        self._cells[_SKEW] += max(0, due_ns - self.now_ns)
        self._changed()
        return True

    def pass_ns(self, ns: int) -> None:
        """Let time go on although nothing was executed."""
        self._cells[_SKEW] += ns
        self._changed()
        self._limit_slice()

    def _changed(self) -> None:
        """Tell a guest that is just reading the cells to begin anew."""
        self._words[_SEQUENCE] = (self._words[_SEQUENCE] + 1) & 0xFFFFFFFF
        if self._copy is not None:
            self._copy[:] = self._octets

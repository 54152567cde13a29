# SPDX-License-Identifier: MIT
"""What does the local APIC of the only processor do? Priorities, its timer, interrupts to itself.

Source: Intel SDM volume 3, 10 (advanced programmable interrupt controller). There is no I/O APIC:
the controllers of the AT come in by LINT0 (virtual wire). Other processors do not exist, so that
INIT and STARTUP go to nobody, and who waits for an answer has to give up by himself.
"""

from __future__ import annotations

from typing import Final

from vmipatch.emu.clock import NS_PER_S, Alarm, Clock

BASE_PA: Final = 0xFEE00000
LENGTH: Final = 0x1000
BUS_HZ: Final = 100_000_000
_NS_PER_TICK: Final = NS_PER_S // BUS_HZ
ID, VERSION, TPR, PPR, EOI = 0x20, 0x30, 0x80, 0xA0, 0xB0
LDR, DFR, SVR, ISR, IRR = 0xD0, 0xE0, 0xF0, 0x100, 0x200
ICR, ICR_HIGH, LVTT, LINT0 = 0x300, 0x310, 0x320, 0x350
_LVTS: Final = (LVTT, 0x330, 0x340, LINT0, 0x360, 0x370)
COUNT, CURRENT, DIVIDE = 0x380, 0x390, 0x3E0
_LVT_COUNT_AND_KIND: Final = 0x00050014
_MASKED, _PERIODIC = 1 << 16, 1 << 17
_ENABLED = 1 << 8
_MODE, _EXT_INT = 7 << 8, 7 << 8
_SELF, _ALL = 1, 2
_LEAST_NS: Final = 10_000
"""A faster timer would leave the guest no time between two interrupts."""


class LocalApic:
    """Registers by their offset in the page, 32 bits each."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._alarm: Alarm | None = None
        self._start_ns = 0
        self._plain = {LDR: 0, DFR: 0xFFFFFFFF, SVR: 0xFF, TPR: 0, ICR: 0, ICR_HIGH: 0, ID: 0}
        self._plain |= dict.fromkeys((COUNT, DIVIDE), 0) | dict.fromkeys(_LVTS, _MASKED)
        self.requests = 0
        """Vectors that wait, as bits."""
        self.service = 0
        """Vectors whose EOI is due, as bits."""

    @property
    def is_enabled(self) -> bool:
        """Whether software has switched it on."""
        return bool(self._plain[SVR] & _ENABLED)

    @property
    def lets_line_in(self) -> bool:
        """Whether the controllers of the AT reach the processor."""
        lint0 = self._plain[LINT0]
        return not self.is_enabled or (not lint0 & _MASKED and lint0 & _MODE == _EXT_INT)

    def pending_vector(self) -> int | None:
        """The vector that is to be served next, or None."""
        vector = self.requests.bit_length() - 1
        if vector < 0 or not self.is_enabled or vector >> 4 <= self._priority() >> 4:
            return None
        return vector

    def acknowledge(self, vector: int) -> None:
        """The processor takes `vector`."""
        self.requests &= ~(1 << vector)
        self.service |= 1 << vector

    def request(self, vector: int) -> None:
        """An interrupt of that vector; those below 16 do not exist."""
        if vector >= 16 and self.is_enabled:
            self.requests |= 1 << vector

    def ring_timer(self) -> None:
        """The interrupt that LVTT describes, whoever asks for it."""
        lvtt = self._plain[LVTT]
        if not lvtt & _MASKED:
            self.request(lvtt & 0xFF)

    def read(self, offset: int) -> int:
        """The register at `offset`; 0 where there is none."""
        offset &= 0xFF0
        for base, vectors in ((ISR, self.service), (IRR, self.requests)):
            if base <= offset < base + 0x80:
                return vectors >> 2 * (offset - base) & 0xFFFFFFFF
        if offset == VERSION:
            return _LVT_COUNT_AND_KIND
        if offset == PPR:
            return self._priority()
        if offset == CURRENT:
            return self._current()
        return self._plain.get(offset, 0)

    def write(self, offset: int, value: int) -> None:
        """Write a register; lost where it can only be read."""
        offset &= 0xFF0
        if offset == EOI:
            if self.service:
                self.service &= ~(1 << self.service.bit_length() - 1)
        elif offset in self._plain:
            self._plain[offset] = value & 0xFFFFFFFF
            if offset == ICR:
                self._send(value)
            elif offset in (COUNT, DIVIDE):
                self._start_timer()

    def _priority(self) -> int:
        tpr, serving = self._plain[TPR] & 0xFF, max(0, self.service.bit_length() - 1)
        return tpr if tpr >> 4 >= serving >> 4 else serving & 0xF0

    def _send(self, value: int) -> None:
        """An interrupt to this processor, if it is for it and an ordinary one."""
        shorthand = value >> 18 & 3
        to_self = shorthand in (_SELF, _ALL)
        if not shorthand:
            to_self = self._plain[ICR_HIGH] >> 24 in (self._plain[ID] >> 24, 0xFF)
        if to_self and value & _MODE in (0, 1 << 8):
            self.request(value & 0xFF)

    def _tick_ns(self) -> int:
        code = self._plain[DIVIDE] & 3 | self._plain[DIVIDE] >> 1 & 4
        return _NS_PER_TICK << (code + 1 & 7)

    def _current(self) -> int:
        count = self._plain[COUNT]
        if not count:
            return 0
        ticks = (self._clock.now_ns - self._start_ns) // self._tick_ns()
        if self._plain[LVTT] & _PERIODIC:
            return count - ticks % count
        return max(0, count - ticks)

    def _start_timer(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._start_ns = self._clock.now_ns
        if self._plain[COUNT]:
            self._set_alarm(1)

    def _set_alarm(self, periods: int) -> None:
        length_ns = max(self._plain[COUNT] * self._tick_ns(), _LEAST_NS)
        due_ns = self._start_ns + periods * length_ns
        self._alarm = self._clock.at(due_ns, lambda: self._expired(length_ns))

    def _expired(self, length_ns: int) -> None:
        if self._plain[LVTT] & _PERIODIC:
            self._set_alarm((self._clock.now_ns - self._start_ns) // length_ns + 1)
        else:
            self._alarm = None
        self.ring_timer()

# SPDX-License-Identifier: MIT
"""What does the local APIC of a processor do? Priorities, its timer, messages to and from others.

Source: Intel SDM volume 3, 10 (advanced programmable interrupt controller). The controllers of the
AT come in by LINT0 of the boot processor (virtual wire); nothing is connected to LINT1.
"""

from __future__ import annotations

from typing import Final, Protocol

from vmipatch.emu.clock import NS_PER_S, Alarm, Clock
from vmipatch.emu.devices.messages import BROADCAST, Message, MessageBus, MessageKind

BASE_PA: Final = 0xFEE00000
LENGTH: Final = 0x1000
BUS_HZ: Final = 100_000_000
_NS_PER_TICK: Final = NS_PER_S // BUS_HZ
ID, VERSION, TPR, PPR, EOI = 0x20, 0x30, 0x80, 0xA0, 0xB0
LDR, DFR, SVR, ISR, TMR, IRR = 0xD0, 0xE0, 0xF0, 0x100, 0x180, 0x200
ICR, ICR_HIGH, LVTT, LINT0 = 0x300, 0x310, 0x320, 0x350
_LVTS: Final = (LVTT, 0x330, 0x340, LINT0, 0x360, 0x370)
COUNT, CURRENT, DIVIDE = 0x380, 0x390, 0x3E0
_LVT_COUNT_AND_KIND: Final = 0x00050014
_MASKED, _PERIODIC = 1 << 16, 1 << 17
_ENABLED = 1 << 8
_FLAT, _EVERY_CLUSTER = 0xF, 0xF
_MODE, _EXT_INT = 7 << 8, 7 << 8
_SENT = 1 << 12
_LEAST_NS: Final = 10_000
"""A faster timer would leave the guest no time between two interrupts."""


class Startable(Protocol):
    """The processor that an APIC belongs to, as messages see it."""

    def initialize(self) -> None:
        """INIT: stop, and wait for STARTUP."""

    def start_up(self, page: int) -> None:
        """STARTUP: begin in real mode at the page of that number, if the processor waits."""


class LocalApic:
    """Registers by their offset in the page, 32 bits each."""

    def __init__(self, clock: Clock, bus: MessageBus | None = None, number: int = 0) -> None:
        """The APIC of processor `number`; number 0 is the one that boots.

        Without a `bus`, it is the only one.
        """
        self._clock = clock
        self._bus = bus or MessageBus()
        self._bus.attach(self)
        self.number = number
        self.processor: Startable | None = None
        """Without one, INIT and STARTUP are lost."""
        self._alarm: Alarm | None = None
        self._reset()

    def _reset(self) -> None:
        """As after power-on, and after INIT (10.4.7)."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = None
        self._start_ns = 0
        self._plain = {LDR: 0, DFR: 0xFFFFFFFF, SVR: 0xFF, TPR: 0, ICR: 0, ICR_HIGH: 0}
        self._plain |= dict.fromkeys((COUNT, DIVIDE), 0) | dict.fromkeys(_LVTS, _MASKED)
        self._plain[ID] = self.number << 24
        self.requests = 0
        """Vectors that wait, as bits."""
        self.service = 0
        """Vectors whose EOI is due, as bits."""
        self._level = 0
        """Vectors that were level-triggered when they came, as bits."""
        self.nmi_waits = False
        """Whether a non-maskable interrupt waits for the processor."""

    @property
    def is_enabled(self) -> bool:
        """Whether software has switched it on."""
        return bool(self._plain[SVR] & _ENABLED)

    @property
    def lets_line_in(self) -> bool:
        """Whether the controllers of the AT reach the processor."""
        if self.number:
            return False
        lint0 = self._plain[LINT0]
        return not self.is_enabled or (not lint0 & _MASKED and lint0 & _MODE == _EXT_INT)

    def pending_vector(self) -> int | None:
        """The vector that is to be served next, or None."""
        vector = self.requests.bit_length() - 1
        if vector < 0 or not self.is_enabled or vector >> 4 <= self._priority() >> 4:
            return None
        return vector

    @property
    def priority(self) -> int:
        """The processor's priority: what has a higher one may interrupt it (10.8.3.1)."""
        return self._priority()

    def is_named(self, destination: int, is_logical: bool) -> bool:
        """Whether a destination names this processor (10.6.2)."""
        if not is_logical:
            return destination in (self._plain[ID] >> 24, BROADCAST)
        mine = self._plain[LDR] >> 24
        if self._plain[DFR] >> 28 == _FLAT:
            return bool(destination & mine)
        same_cluster = destination >> 4 in (mine >> 4, _EVERY_CLUSTER)
        return same_cluster and bool(destination & mine & 0xF)

    def accept(self, message: Message) -> None:
        """Take a message that names this processor; SMI and ExtINT do not exist here."""
        match message.kind:
            case MessageKind.FIXED | MessageKind.LOWEST_PRIORITY:
                self.request(message.vector, is_level=message.is_level)
            case MessageKind.NMI:
                self.nmi_waits = True
            case MessageKind.INIT if message.is_asserted and self.processor is not None:
                self._reset()
                self.processor.initialize()
            case MessageKind.STARTUP if self.processor is not None:
                self.processor.start_up(message.vector)
            case _:
                pass

    def acknowledge(self, vector: int) -> None:
        """The processor takes `vector`."""
        self.requests &= ~(1 << vector)
        self.service |= 1 << vector

    def request(self, vector: int, *, is_level: bool = False) -> None:
        """An interrupt of that vector; those below 16 do not exist."""
        if vector >= 16 and self.is_enabled:
            self.requests |= 1 << vector
            self._level = self._level & ~(1 << vector) | is_level << vector

    def ring_timer(self) -> None:
        """The interrupt that LVTT describes, whatever asks for it."""
        lvtt = self._plain[LVTT]
        if not lvtt & _MASKED:
            self.request(lvtt & 0xFF)

    def read(self, offset: int) -> int:
        """The register at `offset`; 0 where missing."""
        offset &= 0xFF0
        for base, vectors in (
            (ISR, self.service), (TMR, self._level), (IRR, self.requests),
        ):  # fmt: skip
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
            self._end_interrupt()
        elif offset in self._plain:
            self._plain[offset] = value & 0xFFFFFFFF
            if offset == ICR:
                self._plain[ICR] &= ~_SENT
                self._bus.send(Message.of_command(value, self._plain[ICR_HIGH]), self)
            elif offset in (COUNT, DIVIDE):
                self._start_timer()

    def _priority(self) -> int:
        tpr, serving = self._plain[TPR] & 0xFF, max(0, self.service.bit_length() - 1)
        return tpr if tpr >> 4 >= serving >> 4 else serving & 0xF0

    def _end_interrupt(self) -> None:
        """The vector of the highest priority has been served."""
        vector = self.service.bit_length() - 1
        if vector < 0:
            return
        self.service &= ~(1 << vector)
        if self._level >> vector & 1:
            self._bus.end_of_interrupt(vector)

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

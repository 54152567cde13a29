# SPDX-License-Identifier: MIT
"""How is a running machine watched? By hooks that it calls; those that are absent cost nothing.

Hooks are attached to a machine before or between its runs (`Machine.watch`). For what happens at
one address there is `Cpu.watch`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from vmipatch.emu.processor.deliveries import ALL_VECTORS, VECTORS
from vmipatch.emu.processor.events import Event

_Watched = TypeVar("_Watched")

Tracer = Callable[[int, str], None]
"""Gets the virtual time in nanoseconds and what happened."""


class PortHooks(Protocol):
    """Where the accesses to ports go that the guest is allowed to make."""

    def read(self, port: int, size: int) -> int:
        """`in` of `size` bytes."""

    def write(self, port: int, size: int, value: int) -> None:
        """`out` of `size` bytes."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """Calls out of one machine, each optional. Any of them may raise GuestEnded."""

    before_run: Callable[[], None] | None = None
    """The CPU stands still, its devices have had their turn, and it is about to run again."""
    vectors: frozenset[int] | None = None
    """Numbers of what `on_interrupt` and `on_delivery` are called for; all unless given. Others
    cost nothing."""
    on_interrupt: Callable[[int], None] | None = None
    """Number of an exception, software interrupt or intercept, before anything is done about it;
    EIP as `Cpu.take_exception` says."""
    on_delivery: Callable[[Event], None] | None = None
    """An exception or software interrupt, or an external interrupt of a deprivileged guest, before
    the guest's handler is entered."""
    on_port_write: Callable[[int, int, int], None] | None = None
    """Port, size and value of an `out` that the guest is allowed, before the device gets it."""
    on_wait: Callable[[bool], bool] | None = None
    """The guest waits for an interrupt, with interrupts on or off. True lets it go on at once."""
    on_trace: Tracer | None = None
    """Everything that makes Unicorn call the machine, in words."""
    ports: PortHooks | None = None
    """Answers in place of the board's devices."""


class AttachedHooks:
    """All hooks of a machine: a tuple of calls for each hook, in the order of attachment."""

    def __init__(self) -> None:
        self._attached: list[Hooks] = []
        self._sort()

    def attach(self, hooks: Hooks) -> Callable[[], None]:
        """Call them from now on; returns what ends that."""
        self._attached.append(hooks)
        self._sort()

        def detach() -> None:
            self._attached = [each for each in self._attached if each is not hooks]
            self._sort()

        return detach

    def _sort(self) -> None:
        each = self._attached
        self.before_run = tuple(w.before_run for w in each if w.before_run is not None)
        self.on_interrupt = tuple(
            _only(w.vectors, int, w.on_interrupt) for w in each if w.on_interrupt is not None
        )
        self.on_delivery = tuple(
            _only(w.vectors, _vector, w.on_delivery) for w in each if w.on_delivery is not None
        )
        self.on_port_write = tuple(w.on_port_write for w in each if w.on_port_write is not None)
        self.on_wait = tuple(w.on_wait for w in each if w.on_wait is not None)
        self.on_trace = tuple(w.on_trace for w in each if w.on_trace is not None)
        self.wanted = _bits(each)
        """A bit for each vector that any hook wants to know of."""
        self.ports = next((w.ports for w in reversed(each) if w.ports is not None), None)


def _vector(event: Event) -> int:
    return event.vector


def _only(
    vectors: frozenset[int] | None,
    number: Callable[[_Watched], int],
    call: Callable[[_Watched], None],
) -> Callable[[_Watched], None]:
    """`call` for what has one of the numbers only."""
    if vectors is None:
        return call

    def chosen(watched: _Watched) -> None:
        if number(watched) in vectors:
            call(watched)

    return chosen


def _bits(each: Sequence[Hooks]) -> bytes:
    """A bit for each vector that one of the hooks wants."""
    bits = 0
    for hooks in each:
        if hooks.on_trace is not None:
            return ALL_VECTORS
        if hooks.on_interrupt is None and hooks.on_delivery is None:
            continue
        if hooks.vectors is None:
            return ALL_VECTORS
        bits |= sum(1 << vector for vector in hooks.vectors if vector < VECTORS)
    return bits.to_bytes(VECTORS // 8, "little")

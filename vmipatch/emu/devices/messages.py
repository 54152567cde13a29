# SPDX-License-Identifier: MIT
"""Which processors get an interrupt message? Those that its destination or its shorthand names.

Local APICs and the I/O APIC send messages over one bus; a message that is held for several
processors reaches them in the order of their numbers, so that two runs are the same.

Source: Intel SDM volume 3, 10.6 (interprocessor interrupts); MSI are not modelled.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

BROADCAST: Final = 0xFF
"""The physical destination that names every processor."""
_VECTOR, _LOGICAL, _ASSERT, _LEVEL = 0xFF, 1 << 11, 1 << 14, 1 << 15


class MessageKind(enum.IntEnum):
    """The delivery mode (SDM, figure 10-12; the 82093AA has the same numbers)."""

    FIXED = 0
    LOWEST_PRIORITY = 1
    SMI = 2
    RESERVED = 3
    NMI = 4
    INIT = 5
    STARTUP = 6
    EXT_INT = 7


class Shorthand(enum.IntEnum):
    """Which processors are meant, in place of a destination (SDM, figure 10-12)."""

    NONE = 0
    SELF = 1
    ALL = 2
    OTHERS = 3


@dataclass(frozen=True, slots=True)
class Message:
    """One interrupt on its way over the bus."""

    kind: MessageKind
    vector: int
    destination: int
    """An APIC's number, or a set of processors as their LDR and DFR tell."""
    is_logical: bool = False
    is_level: bool = False
    is_asserted: bool = True
    """Only INIT can be anything else, which means nothing to processors since the Pentium 4."""
    shorthand: Shorthand = Shorthand.NONE

    @classmethod
    def of_command(cls, low: int, high: int) -> Message:
        """The message that a write of the interrupt command register asks for.

        `low` and `high`: the two words of the register.
        """
        return cls(
            kind=MessageKind(low >> 8 & 7),
            vector=low & _VECTOR,
            destination=high >> 24,
            is_logical=bool(low & _LOGICAL),
            is_level=bool(low & _LEVEL),
            is_asserted=bool(low & _ASSERT),
            shorthand=Shorthand(low >> 18 & 3),
        )


class Receiver(Protocol):
    """A local APIC, as the bus sees it."""

    @property
    def priority(self) -> int:
        """Of what the processor does now: of several, the one with the lowest gets a message."""

    def is_named(self, destination: int, is_logical: bool) -> bool:
        """Whether a destination names this processor."""

    def accept(self, message: Message) -> None:
        """Take a message."""


class MessageBus:
    """The wires between the APICs."""

    def __init__(self) -> None:
        self._receivers: list[Receiver] = []
        self._on_end: list[Callable[[int], None]] = []
        self.on_send: Callable[[], None] | None = None
        """Is told that a message has arrived."""

    def attach(self, receiver: Receiver) -> None:
        """The next processor."""
        self._receivers.append(receiver)

    def on_end_of_interrupt(self, call: Callable[[int], None]) -> None:
        """Tell of each vector of a level-triggered interrupt that a processor has served."""
        self._on_end.append(call)

    def send(self, message: Message, sender: Receiver | None = None) -> None:
        """Bring a message to all that it names; `sender` is None for an I/O APIC."""
        named = [each for each in self._receivers if _is_meant(message, each, sender)]
        if named and message.kind is MessageKind.LOWEST_PRIORITY:
            named = [min(named, key=lambda each: each.priority)]
        for receiver in named:
            receiver.accept(message)
        if self.on_send is not None:
            self.on_send()

    def end_of_interrupt(self, vector: int) -> None:
        """A processor has served a level-triggered interrupt."""
        for call in self._on_end:
            call(vector)


def _is_meant(message: Message, receiver: Receiver, sender: Receiver | None) -> bool:
    match message.shorthand:
        case Shorthand.SELF:
            return receiver is sender
        case Shorthand.ALL:
            return True
        case Shorthand.OTHERS:
            return receiver is not sender
        case Shorthand.NONE:
            return receiver.is_named(message.destination, message.is_logical)

# SPDX-License-Identifier: MIT
"""What is an event of a machine, and with which events of the other machines is it compared?

An event belongs to a channel. Within a channel the three machines must say the same in the same
order; between channels there is no order, since the machines run at different speeds.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol


class EventKind(enum.Enum):
    """The events that the outside world or user space sees."""

    CONSOLE = "console lines"
    PORT = "port writes"
    CALL = "system calls"
    RESULT = "results of system calls"
    FAULT = "exceptions of processes"
    SIGNAL = "signals handled"
    PROCESS = "processes and programs begun"
    FLAG = "wrong interrupt flags"
    END = "ends"


@dataclass(frozen=True, slots=True)
class SeenEvent:
    """Something that the outside world or user space can see."""

    kind: EventKind
    channel: str
    text: str
    """The text that is compared."""
    now_ns: int
    """Virtual time, which is not compared."""
    va: int
    """Where: of what processes do, in the process; else in the kernel."""

    @property
    def is_wrong(self) -> bool:
        """Whether it is wrong by itself, whatever the other machines do."""
        return self.kind is EventKind.FLAG


class Emit(Protocol):
    """Takes what has just happened."""

    def __call__(self, kind: EventKind, channel: str, text: str, va: int | None = None) -> None:
        """`va` is where, if that is not where the CPU stands."""

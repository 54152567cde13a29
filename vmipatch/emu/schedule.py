# SPDX-License-Identifier: MIT
"""Which processor runs next, and for how long? Each that can in turn, by executed bytes alone.

Several processors share one engine and one clock. A turn ends when its bytes are used up and
another processor can run, when its processor waits, and when it says by PAUSE that it waits for
another one. Nothing else is looked at, so that two runs of a guest take the same turns.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Final

MOST_PROCESSORS: Final = 8
"""As many as the flat model of logical destinations can name (SDM volume 3, 10.6.2.2)."""
DEFAULT_TURN_LEN: Final = 150_000
"""Bytes of code: 2.25 ms of the guest's time. A tenth of it costs a quarter more of the host's."""
MIN_TURN_LEN: Final = 500


_SHORTEST_OTHER: Final = 1500


def other_turn_lens(count: int) -> tuple[int, ...]:
    """As many lengths of turns that meet other interleavings than the default one, shortest first.

    Each is the same part longer than the one before; the first is a hundredth of the default.
    """
    ratio = DEFAULT_TURN_LEN / _SHORTEST_OTHER
    return tuple(round(_SHORTEST_OTHER * ratio ** (i / count)) for i in range(count))


class ProcessorState(enum.Enum):
    """A processor executes code, or waits."""

    RUNNING = "it executes code"
    HALTED = "it waits for an interrupt"
    OFF = "it waits for STARTUP"


def next_processor(able: Sequence[bool], current: int) -> int | None:
    """The number of the first processor after `current` that can run, `current` itself last.

    `able`: whether each processor can run. None if no one can.
    """
    count = len(able)
    for step in range(1, count + 1):
        number = (current + step) % count
        if able[number]:
            return number
    return None


class Turn:
    """How much of its turn the running processor has left."""

    def __init__(self, length: int) -> None:
        """`length`: bytes of code. Raises ValueError below MIN_TURN_LEN."""
        if length < MIN_TURN_LEN:
            raise ValueError(f"a turn of {length} bytes is shorter than many a block of code")
        self.length = length
        self._end = 0
        self._given_up = False

    def begin(self, executed_len: int) -> None:
        """A turn begins when so many bytes have been executed by all."""
        self._end = executed_len + self.length
        self._given_up = False

    def give_up(self) -> None:
        """The processor waits for another one: let the turn be over."""
        self._given_up = True

    def left(self, executed_len: int) -> int:
        """Bytes that remain; at least 1, so that a turn in progress makes some."""
        return max(1, self._end - executed_len)

    def is_over(self, executed_len: int, *, held: bool = False) -> bool:
        """Whether another processor takes over, if there is one that can run.

        `held`: the processor is where it should not rest, which lengthens its turn, at most to
        twice its length.
        """
        if held:
            return executed_len >= self._end + self.length
        return self._given_up or executed_len >= self._end

# SPDX-License-Identifier: MIT
"""Where do three streams of events first differ?

Events are taken as they come and dropped as soon as all machines have said the same, so that what
is kept is how far one is ahead of another.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vmipatch.verify.lockstep.events import EventKind, SeenEvent

MOST_WAITING: Final = 100_000
"""Events without an answer after which the machines have lost each other."""
_REMEMBERED: Final = 2_000
"""Events of each machine that a report can choose from."""
SHOWN: Final = 8
"""Last events of each machine in a report."""


@dataclass(frozen=True, slots=True)
class DivergentSide:
    """The event of one machine at the place of a divergence."""

    event: SeenEvent | None
    """None: nothing (more)."""
    before: tuple[SeenEvent, ...]
    """Its last events up to that one, of all channels."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first place where the machines do not say the same."""

    channel: str
    number: int
    """How many events of the channel were the same before."""
    sides: tuple[DivergentSide, ...]
    """In the order of the machines."""

    @property
    def wrong(self) -> SeenEvent | None:
        """The event that is wrong by itself, if it is one."""
        events = (side.event for side in self.sides)
        return next((event for event in events if event is not None and event.is_wrong), None)


class Comparer:
    """Takes the events of some machines; the first divergence is the last word."""

    def __init__(self, machines: int) -> None:
        self.compared: Counter[EventKind] = Counter()
        """How many events all machines have agreed on."""
        self.divergence: Divergence | None = None
        self._machines = range(machines)
        self._waiting: dict[str, list[deque[SeenEvent]]] = {}
        self._agreed: Counter[str] = Counter()
        self._ended = [False] * machines
        self._kept = 0
        self._recent: list[deque[SeenEvent]] = [deque(maxlen=_REMEMBERED) for _ in self._machines]

    def take(self, machine: int, event: SeenEvent) -> None:
        """The next event of a machine."""
        self._recent[machine].append(event)
        if event.is_wrong:
            heads = [event if one == machine else None for one in self._machines]
            self._diverge(event.channel, heads)
            return
        queues = self._waiting.get(event.channel)
        if queues is None:
            queues = self._waiting[event.channel] = [deque() for _ in self._machines]
        queues[machine].append(event)
        self._kept += 1
        self._settle(event.channel, queues)
        if self._kept > MOST_WAITING and self.divergence is None:
            longest = max(self._waiting.items(), key=lambda item: sum(map(len, item[1])))
            self._diverge(longest[0], [queue[0] if queue else None for queue in longest[1]])

    def end(self, machine: int) -> None:
        """A machine says no more."""
        self._ended[machine] = True
        waiting = list(self._waiting.items())
        waiting.sort(key=lambda item: min(queue[0].now_ns for queue in item[1] if queue))
        for channel, queues in waiting:
            self._settle(channel, queues)

    def _settle(self, channel: str, queues: Sequence[deque[SeenEvent]]) -> None:
        """Drop what all have said; find who says something else, or will say nothing."""
        while self.divergence is None:
            heads = [queue[0] if queue else None for queue in queues]
            texts = {head.text for head in heads if head is not None}
            silent = any(
                head is None and ended for head, ended in zip(heads, self._ended, strict=True)
            )
            if len(texts) > 1 or (texts and silent):
                self._diverge(channel, heads)
                return
            if None in heads:
                return
            first = queues[0][0]
            for queue in queues:
                queue.popleft()
            self._kept -= len(queues)
            self.compared[first.kind] += 1
            self._agreed[channel] += 1
            if not any(queues):
                del self._waiting[channel]
                return

    def _diverge(self, channel: str, heads: Sequence[SeenEvent | None]) -> None:
        now_ns = max(head.now_ns for head in heads if head is not None)
        sides = tuple(
            DivergentSide(head, self._up_to(i, head, now_ns)) for i, head in enumerate(heads)
        )
        self.divergence = Divergence(channel, self._agreed[channel], sides)

    def _up_to(self, machine: int, event: SeenEvent | None, now_ns: int) -> tuple[SeenEvent, ...]:
        """The last events up to that one; of a machine that is silent, up to the same time."""
        recent = list(self._recent[machine])
        if event is None:
            recent = [one for one in recent if one.now_ns <= now_ns]
        else:
            at = next((i for i, one in enumerate(recent) if one is event), len(recent) - 1)
            recent = recent[: at + 1]
        return tuple(recent[-SHOWN:])

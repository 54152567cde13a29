# SPDX-License-Identifier: MIT
"""Is the first difference of three streams found, whatever the order they come in?"""

from __future__ import annotations

import random

from vmipatch.image.symbols import SymbolTable
from vmipatch.verify.lockstep.compare import MOST_WAITING, Comparer, Divergence
from vmipatch.verify.lockstep.events import EventKind, SeenEvent
from vmipatch.verify.lockstep.report import headline, history

MACHINES = 3
Stream = list[tuple[str, str]]
"""Channels and texts."""


def event(channel: str, text: str, now_ns: int = 0, kind: EventKind = EventKind.CALL) -> SeenEvent:
    return SeenEvent(kind, channel, text, now_ns, 0x1000)


def fed(*streams: Stream, seed: int = 1) -> Comparer:
    """A comparer that has taken the streams to their ends, in an order of chance."""
    dice = random.Random(seed)
    comparer = Comparer(len(streams))
    left = [[event(*each, now_ns=i) for i, each in enumerate(stream)] for stream in streams]
    running = list(range(len(streams)))
    while running and comparer.divergence is None:
        machine = dice.choice(running)
        if left[machine]:
            comparer.take(machine, left[machine].pop(0))
        else:
            running.remove(machine)
            comparer.end(machine)
    return comparer


def diverged(*streams: Stream, seed: int = 1) -> Divergence:
    found = fed(*streams, seed=seed).divergence
    assert found is not None
    return found


STREAM: Stream = [("task 1", "a"), ("console", "x"), ("task 1", "b"), ("task 1.1", "c")]


def test_order_between_channels_is_free_and_within_one_it_is_not() -> None:
    other = [STREAM[3], STREAM[0], STREAM[2], STREAM[1]]
    for seed in range(20):
        comparer = fed(STREAM, other, STREAM, seed=seed)
        assert comparer.divergence is None
        assert comparer.compared == {EventKind.CALL: len(STREAM)}
        swapped = [STREAM[2], STREAM[0], STREAM[1], STREAM[3]]
        assert diverged(STREAM, STREAM, swapped, seed=seed).channel == "task 1"


def test_difference_in_each_machine_is_found_with_what_all_said() -> None:
    for machine in range(MACHINES):
        streams = [list(STREAM) for _ in range(MACHINES)]
        streams[machine][2] = ("task 1", "B")
        for seed in range(10):
            found = diverged(*streams, seed=seed)
            assert (found.channel, found.number) == ("task 1", 1)
            said = {side.event.text for side in found.sides if side.event is not None}
            assert said == {"b", "B"}


def test_machine_that_says_less_or_more_is_found() -> None:
    for machine in range(MACHINES):
        for changed in (STREAM[:-1], [*STREAM, ("task 1", "more")]):
            streams = [list(STREAM) for _ in range(MACHINES)]
            streams[machine] = changed
            for seed in range(10):
                found = diverged(*streams, seed=seed)
                assert any(side.event is None for side in found.sides)


def test_event_that_is_wrong_by_itself_needs_no_other_machine() -> None:
    comparer = Comparer(MACHINES)
    wrong = event("virtual interrupt flag", "it is off", kind=EventKind.FLAG)
    comparer.take(2, wrong)
    assert comparer.divergence is not None
    assert comparer.divergence.wrong is wrong
    assert headline(comparer.divergence) == "virtual interrupt flag: it is off"


def test_machines_that_lose_each_other_are_stopped() -> None:
    comparer = Comparer(MACHINES)
    for i in range(MOST_WAITING + 1):
        assert comparer.divergence is None
        comparer.take(0, event("console", str(i)))
    assert comparer.divergence is not None


def test_report_shows_each_machine_up_to_the_difference() -> None:
    changed = [*STREAM[:2], ("task 1", "B"), ("task 1.1", "c")]
    found = diverged(STREAM, STREAM, changed)
    assert "rewritten, paravirtual: `B`" in headline(found)
    lines = list(history(found, (SymbolTable.empty(),) * MACHINES))
    assert sum(line.startswith(">") for line in lines) == MACHINES
    assert lines[0] == "original, native:"
    assert any("task 1: B" in line and line.startswith(">") for line in lines)
    assert not any("task 1.1" in line for line in lines)

# SPDX-License-Identifier: MIT
"""Which rounds may a loop over entries make, if entries come and go while it turns?

A process that lists a directory makes a round for each entry. How many there are and which is
decided by a race, so the rounds that were seen may come in any order and number, each whole. And
an entry may go at any moment of its round: from the call that fails for this reason on, what needs
the entry is left out. Decision: docs/decisions/0056.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from vmipatch.verify.user_space import Trace
from vmipatch.verify.variation.align import Gap

NO_ENTRY: Final = "-2"
"""ENOENT: the result of a call that names something that is gone."""
NO_PROCESS: Final = "-3"
"""ESRCH: the result of a call for an open file of a process that is gone."""
_OPENS: Final = frozenset({"open", "openat"})
_NAMES: Final = _OPENS | {
    "access", "chdir", "faccessat", "fstatat64", "lstat", "lstat64", "readlink", "readlinkat",
    "stat", "stat64", "statfs", "statfs64", "statx",
}  # fmt: skip
"""Calls that name what they are about; others with a file's number are about an open file."""


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop of which the rounds vary, and in which an entry was seen that had gone."""

    head: str
    """Name and arguments of the call that begins a round."""
    body: frozenset[str]
    """Names and arguments of all its calls."""
    rounds: frozenset[Trace]
    """Those that were seen."""
    passing: frozenset[Trace]
    """Those of entries that go, not as often in every run."""
    cut: frozenset[Trace]
    """Rounds whose entry goes at another moment than was seen."""

    @property
    def token(self) -> str:
        """The loop as one call."""
        return f"rounds of {self.head}"

    def bounds(self, trace: Sequence[str]) -> tuple[int, int] | None:
        """The place of the loop in a trace, or None."""
        starts = _starts(self.head, trace)
        return (starts[0], _end(starts[-1], trace, self.body)) if starts else None

    def rounds_of(self, trace: Sequence[str], start: int, end: int) -> Iterator[Trace]:
        """Each round of a trace whose loop is at [start, end)."""
        starts = _starts(self.head, trace[start:end])
        for at, after in zip(starts, [*starts[1:], end - start], strict=True):
            yield tuple(trace[start + at : start + after])

    def allows(self, round_: Trace) -> bool:
        """Whether such a round may be."""
        return round_ in self.rounds or round_ in self.cut

    def lasts(self, round_: Trace) -> bool:
        """Whether its entry does not go, as far as the runs show."""
        return round_ not in self.passing and round_ not in self.cut


def loop_at(gap: Gap, traces: Sequence[Trace]) -> Loop | None:
    """The smallest loop around a gap of the first trace, if its entries come and go."""
    heads = dict.fromkeys(call_of(call) for call in traces[0])
    found = [
        (end - start, loop)
        for head in heads
        if (loop := _loop(head, traces)) is not None
        and (bounds := loop.bounds(traces[0])) is not None
        for start, end in [bounds]
        if start <= gap.start and gap.end <= end
    ]
    smallest = min(found, key=lambda each: each[0], default=None)
    return smallest[1] if smallest and (smallest[1].passing or smallest[1].cut) else None


def call_of(call: str) -> str:
    """Name and arguments, without the result."""
    return call.rpartition(" = ")[0]


def _starts(head: str, trace: Sequence[str]) -> list[int]:
    return [at for at, call in enumerate(trace) if call_of(call) == head]


def _end(last: int, trace: Sequence[str], body: frozenset[str]) -> int:
    """The end of the round that begins at `last`."""
    end = last + 1
    while end < len(trace) and call_of(trace[end]) in body:
        end += 1
    return end


def _loop(head: str, traces: Sequence[Trace]) -> Loop | None:
    """The loop whose rounds begin with `head`.

    None if no run makes the same round twice, or one enters the loop elsewhere.
    """
    places = [_starts(head, trace) for trace in traces]
    runs = [
        [trace[start:end] for start, end in pairwise(starts)]
        for trace, starts in zip(traces, places, strict=True)
    ]
    body = frozenset(call_of(call) for run in runs for round_ in run for call in round_)
    for trace, starts, run in zip(traces, places, runs, strict=True):
        if starts:
            if starts[0] and call_of(trace[starts[0] - 1]) in body:
                return None
            run.append(trace[starts[-1] : _end(starts[-1], trace, body)])
    if all(len(run) == len(set(run)) for run in runs):
        return None
    rounds = frozenset().union(*runs)
    gone = frozenset(round_ for round_ in rounds if _has_gone(round_, rounds))
    passing = frozenset(each for each in gone if len({run.count(each) for run in runs}) > 1)
    return Loop(head, body, rounds, passing, _cut(rounds, passing) if gone else frozenset())


def _cut(rounds: frozenset[Trace], passing: frozenset[Trace]) -> frozenset[Trace]:
    """The rounds of entries that go meanwhile, at another moment than was seen."""
    begun, known = _beginnings(rounds), _beginnings(passing)
    return (
        frozenset(each for round_ in rounds for each in _shortened(round_, begun, known)) - rounds
    )


def _beginnings(rounds: frozenset[Trace]) -> frozenset[Trace]:
    return frozenset(each[:length] for each in rounds for length in range(1, len(each) + 1))


def _goes(round_: Trace) -> bool:
    return any(call.endswith((f" = {NO_ENTRY}", f" = {NO_PROCESS}")) for call in round_)


def _has_gone(round_: Trace, rounds: Iterable[Trace]) -> bool:
    """Whether a call of it finds nothing that finds something in another round."""
    results: dict[str, set[bool]] = {}
    for each in rounds:
        for call in each:
            results.setdefault(call_of(call), set()).add(_goes((call,)))
    return any(len(results[call_of(call)]) > 1 for call in round_ if _goes((call,)))


def _shortened(round_: Trace, begun: frozenset[Trace], known: frozenset[Trace]) -> Iterator[Trace]:
    """The round with an entry that is gone from each of its calls on.

    Either the rest goes on without what the call would have found, or the round is given up: not
    so if a round was seen to go on, one of `begun`. What comes of those `known` was seen.
    """
    files: set[str] = set()
    for at, call in enumerate(round_):
        made, _, result = call.rpartition(" = ")
        name, number = _name_and_file(made)
        failed = result.startswith("-")
        rest, before = round_[at + 1 :], round_[:at]
        if name == "close":
            files.discard(number)
        elif name in _NAMES and not failed:
            lost = (*before, f"{made} = {NO_ENTRY}")
            kept = _without(result, rest, name in _OPENS)
            yield from _reactions(lost, kept, files, rest, begun) if lost not in known else ()
            if name in _OPENS:
                files.add(result)
        elif number in files and not failed:
            lost = (*before, f"{made} = {NO_PROCESS}")
            kept = tuple(each for each in rest if not _uses(each, number) or _closes(each, number))
            yield from _reactions(lost, kept, files, rest, begun) if lost not in known else ()


def _reactions(
    lost: Trace, rest: Trace, files: set[str], seen: Trace, begun: frozenset[Trace]
) -> Iterator[Trace]:
    """`lost` and what may come after it; `files`: those that are open, and then closed."""
    yield lost + rest
    if lost not in begun:
        yield lost + tuple(call for call in seen if any(_closes(call, file) for file in files))


def _name_and_file(made: str) -> tuple[str, str]:
    """The name of a call and its first argument."""
    name, _, arguments = made.partition("(")
    return name, arguments.rstrip(")").partition(",")[0]


def _uses(call: str, file: str) -> bool:
    return _name_and_file(call_of(call))[1] == file


def _closes(call: str, file: str) -> bool:
    return _name_and_file(call_of(call)) == ("close", file)


def _without(file: str, rest: Trace, is_open: bool) -> Trace:
    """`rest` without the calls for a file that was not opened, up to its end."""
    if not is_open:
        return rest
    kept = []
    closed = False
    for call in rest:
        if closed or not _uses(call, file):
            kept.append(call)
        closed = closed or _closes(call, file)
    return tuple(kept)

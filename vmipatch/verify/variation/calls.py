# SPDX-License-Identifier: MIT
"""May a process make these system calls, if the original's made those in several runs?

Where all runs agree, it has to. Where they made other calls, it may make those that were seen
there, one after the other only as any run did, and those that all runs made as often, as often: a
loop may end sooner or later, but its body stays. Where all made the same calls with other values,
what stays of a call is compared. A loop over entries that come and go (`loops`) is one element.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Final

from vmipatch.verify.user_space import Trace
from vmipatch.verify.variation.align import Gap, gaps
from vmipatch.verify.variation.loops import Loop, loop_at

_PARTS: Final = re.compile(r"([(),= ]+)")
_HANDLED: Final = frozenset({"sigreturn() = ?", "rt_sigreturn() = ?"})
"""A signal handler returns: that comes between any two calls."""
_END: Final = "nothing more"
_SHOWN: Final = 4
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Objection:
    """The first call of a process that no run of the original allows."""

    number: int
    """From 0 on, signal handlers left out."""
    expected: str
    found: str


@dataclass(frozen=True, slots=True)
class _Element:
    """One call that all runs make, or a gap."""

    parts: tuple[str | None, ...] = ()
    """Of the call; None varies."""
    tokens: frozenset[str] = frozenset()
    """Calls of a gap, in any number."""

    @property
    def is_exact(self) -> bool:
        """Whether it is one call whose values are all known."""
        return bool(self.parts) and None not in self.parts

    def accepts(self, call: str) -> bool:
        """Whether `call` may stand here, whatever is beside it."""
        if not self.parts:
            return call in self.tokens
        found = _PARTS.split(call)
        return len(found) == len(self.parts) and all(
            part is None or part == own for part, own in zip(self.parts, found, strict=True)
        )

    def __str__(self) -> str:
        return "".join("..." if part is None else part for part in self.parts)


@dataclass(frozen=True, slots=True)
class Pattern:
    """The calls of processes of one program of the original in all its runs."""

    elements: tuple[_Element, ...]
    pairs: frozenset[Pair] = field(repr=False)
    """Calls that followed each other in any run; empty strings at the ends."""
    counts: tuple[tuple[str, int], ...] = field(repr=False)
    """Calls of gaps that come as often in all runs, and names of such calls."""
    least: tuple[tuple[str, int], ...] = field(repr=False)
    """The same of loops, where entries that went in all runs may stay: at least as often."""
    loops: tuple[Loop, ...] = field(repr=False)
    """Each is one call of the elements."""
    varies: tuple[str, ...]
    """Lines about what varies."""

    @classmethod
    def of(cls, traces: Sequence[Trace]) -> Pattern:
        """The pattern of several runs; the first gives the numbers of calls."""
        unfolded = list(map(_plain, traces))
        loops = _loops(unfolded)
        folded = [_folded(trace, loops) for trace in unfolded]
        plain = [each.calls for each in folded]
        first = plain[0]
        elements: list[_Element] = []
        varies = [_rounds_in_words(loop, unfolded) for loop in loops]
        at = 0
        for gap in gaps(first, plain[1:]):
            elements += map(_exact, first[at : gap.start])
            inside = _inside(gap)
            elements += inside
            varies.append(_in_words(gap, inside))
            at = gap.end
        elements += map(_exact, first[at:])
        pairs = frozenset(pair for trace in plain for pair in zip(("", *trace), (*trace, "")))  # noqa: B905
        loose = {token for element in elements for token in element.tokens}
        in_loops = _with_names({call for loop in loops for each in loop.rounds for call in each})
        every = list(map(_counted, traces))
        counts = _steady(every, _with_names(loose | _HANDLED) - in_loops)
        lasting = [count - each.passing for count, each in zip(every, folded, strict=True)]
        least = _steady(lasting, in_loops)
        handled = sorted({len(trace) - len(_plain(trace)) for trace in traces})
        if len(handled) > 1:
            varies.append(f"{handled[0]} to {handled[-1]} signals that are handled")
        return cls(tuple(elements), pairs, counts, least, loops, tuple(varies))

    def objection(self, trace: Trace) -> Objection | None:
        """The first call of `trace` that no run allows, or None."""
        folded = _folded(_plain(trace), self.loops)
        plain, places = folded.calls, folded.places
        states = self._closed({0})
        for number, call in enumerate(plain):
            before = plain[number - 1] if number else ""
            after = self._closed(set(self._after(states, before, call)))
            if not after:
                return Objection(places[number], self._expected(states), call)
            states = after
        last, end = plain[-1] if plain else "", len(self.elements)
        if end not in states or (self._is_free(end) and (last, "") not in self.pairs):
            return Objection(places[-1], self._expected(states), _END)
        found = _counted(trace)
        wrong = [each for each in self.counts if found[each[0]] != each[1]]
        found -= folded.passing
        wrong = wrong or [each for each in self.least if found[each[0]] < each[1]]
        for what, count in wrong:
            return Objection(places[-1], f"{count} times {what}", f"{found[what]} times {what}")
        return None

    def _after(self, states: set[int], before: str, call: str) -> Iterator[int]:
        """The states after `call` from `states`."""
        for state in states:
            if state == len(self.elements) or not self.elements[state].accepts(call):
                continue
            element = self.elements[state]
            is_known = (before, call) in self.pairs
            if not element.parts and is_known:
                yield state
            elif element.parts and (is_known or not self._is_free(state)):
                yield state + 1

    def _is_free(self, state: int) -> bool:
        """Whether a gap stands before an element: then the two calls must have been neighbours.

        Not so for calls of which a value varies.
        """
        after_gap = state > 0 and not self.elements[state - 1].parts
        varies = state < len(self.elements) and not self.elements[state].is_exact
        return after_gap and not varies

    def _closed(self, states: set[int]) -> set[int]:
        """With those after gaps, which may be empty."""
        todo = list(states)
        while todo:
            state = todo.pop()
            is_gap = state < len(self.elements) and not self.elements[state].parts
            if is_gap and state + 1 not in states:
                states.add(state + 1)
                todo.append(state + 1)
        return states

    def _expected(self, states: set[int]) -> str:
        """A call that may come in one of `states`."""
        for state in sorted(states, reverse=True):
            if state < len(self.elements) and self.elements[state].parts:
                return str(self.elements[state])
        return _END


@dataclass(frozen=True, slots=True)
class _Folded:
    """A trace with one call for each loop whose rounds may be."""

    calls: Trace
    places: tuple[int, ...]
    """Of each call in the trace, and the end."""
    passing: Counter[str] = field(hash=False)
    """Calls of the rounds of entries that went, and their names."""


def _folded(trace: Trace, loops: Sequence[Loop]) -> _Folded:
    """A round that may not be is left as it is, with all of its loop: nothing else is like it."""
    calls, places = list(trace), list(range(len(trace) + 1))
    passing: Counter[str] = Counter()
    for loop in loops:
        bounds = loop.bounds(calls)
        rounds = list(loop.rounds_of(calls, *bounds)) if bounds else []
        if bounds is None or not all(map(loop.allows, rounds)):
            continue
        start, end = bounds
        calls[start:end], places[start:end] = [loop.token], [places[start]]
        for round_ in rounds:
            passing.update({} if loop.lasts(round_) else _counted(round_))
    return _Folded(tuple(calls), tuple(places), passing)


def _loops(traces: Sequence[Trace]) -> tuple[Loop, ...]:
    """The loops that the gaps are in."""
    loops: list[Loop] = []
    plain = list(traces)
    while True:
        found = (loop_at(gap, plain) for gap in gaps(plain[0], plain[1:]))
        loop = next((loop for loop in found if loop is not None), None)
        if loop is None:
            return tuple(loops)
        loops.append(loop)
        plain = [_folded(trace, [loop]).calls for trace in plain]


def _rounds_in_words(loop: Loop, traces: Sequence[Trace]) -> str:
    numbers = {sum(call.startswith(f"{loop.head} = ") for call in trace) for trace in traces}
    some = f"{min(numbers)} to {max(numbers)}" if len(numbers) > 1 else f"{min(numbers)}"
    return f"{some} rounds of `{loop.head}`, whose entries come and go"


def _plain(trace: Trace) -> Trace:
    """Without the returns of signal handlers."""
    return tuple(call for call in trace if call not in _HANDLED)


def _name(call: str) -> str:
    return call.partition("(")[0]


def _counted(trace: Trace) -> Counter[str]:
    """How often each call comes, and each name of a call."""
    return Counter(trace) + Counter(map(_name, trace))


def _with_names(calls: Set[str]) -> set[str]:
    return {*calls, *map(_name, calls)}


def _steady(counts: Sequence[Counter[str]], wanted: set[str]) -> tuple[tuple[str, int], ...]:
    """Those that come as often in all runs."""
    same = ((what, {count[what] for count in counts}) for what in sorted(wanted))
    return tuple((what, min(found)) for what, found in same if len(found) == 1)


def _exact(call: str) -> _Element:
    return _Element(parts=tuple(_PARTS.split(call)))


def _inside(gap: Gap) -> list[_Element]:
    """Elements of a gap: calls with values that vary if all runs make the same calls."""
    lengths = {len(each) for each in gap.alternatives}
    if len(lengths) == 1:
        templates = [_template(column) for column in zip(*gap.alternatives, strict=True)]
        if all(templates):
            return [_Element(parts=template) for template in templates]
    return [_Element(tokens=gap.tokens)]


def _template(calls: Sequence[str]) -> tuple[str | None, ...]:
    """The parts that all `calls` share; empty if they are different calls."""
    split = [_PARTS.split(call) for call in calls]
    if len({(parts[0], len(parts)) for parts in split}) > 1:
        return ()
    return tuple(parts[0] if len(set(parts)) == 1 else None for parts in zip(*split, strict=True))


def _in_words(gap: Gap, inside: Sequence[_Element]) -> str:
    if inside and inside[0].parts:
        calls = ", ".join(f"`{element}`" for element in inside[:_SHOWN])
        return f"from call {gap.start + 1} on values of {calls}"
    counts = sorted({len(each) for each in gap.alternatives})
    tokens = sorted(gap.tokens)
    calls = ", ".join(f"`{token}`" for token in tokens[:_SHOWN])
    more = f" and {len(tokens) - _SHOWN} more" if len(tokens) > _SHOWN else ""
    some = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
    return f"from call {gap.start + 1} on {some} calls of {calls}{more}"

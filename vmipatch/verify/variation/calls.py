# SPDX-License-Identifier: MIT
"""May a process make these system calls, if the original's made those in several runs?

Where all runs agree, it has to. Where they made other calls, it may make those that were seen
there, one after the other only as any run did, and those that all runs made as often, as often: a
loop may end sooner or later, but its body stays. Where all made the same calls with other values,
what stays of a call is compared.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from vmipatch.verify.user_space import Trace
from vmipatch.verify.variation.align import Gap, gaps

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
    varies: tuple[str, ...]
    """Lines about what varies."""

    @classmethod
    def of(cls, traces: Sequence[Trace]) -> Pattern:
        """The pattern of several runs; the first gives the numbers of calls."""
        plain = list(map(_plain, traces))
        first = plain[0]
        elements: list[_Element] = []
        varies = []
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
        counts = _steady(traces, {*loose, *map(_name, loose), *map(_name, _HANDLED)})
        handled = sorted({len(trace) - len(_plain(trace)) for trace in traces})
        if len(handled) > 1:
            varies.append(f"{handled[0]} to {handled[-1]} signals that are handled")
        return cls(tuple(elements), pairs, counts, tuple(varies))

    def objection(self, trace: Trace) -> Objection | None:
        """The first call of `trace` that no run allows, or None."""
        plain = _plain(trace)
        states = self._closed({0})
        for number, call in enumerate(plain):
            before = plain[number - 1] if number else ""
            after = self._closed(set(self._after(states, before, call)))
            if not after:
                return Objection(number, self._expected(states), call)
            states = after
        last, end = plain[-1] if plain else "", len(self.elements)
        if end not in states or (self._is_free(end) and (last, "") not in self.pairs):
            return Objection(len(plain), self._expected(states), _END)
        found = _counted(trace)
        for what, count in self.counts:
            if found[what] != count:
                times = f"{found[what]} times {what}"
                return Objection(len(plain), f"{count} times {what}", times)
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


def _plain(trace: Trace) -> Trace:
    """Without the returns of signal handlers."""
    return tuple(call for call in trace if call not in _HANDLED)


def _name(call: str) -> str:
    return call.partition("(")[0]


def _counted(trace: Trace) -> Counter[str]:
    """How often each call comes, and each name of a call."""
    return Counter(trace) + Counter(map(_name, trace))


def _steady(traces: Sequence[Trace], wanted: set[str]) -> tuple[tuple[str, int], ...]:
    """Those that come as often in all traces."""
    counts = list(map(_counted, traces))
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

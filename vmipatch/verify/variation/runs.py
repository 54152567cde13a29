# SPDX-License-Identifier: MIT
"""Is what a rewritten kernel did something that the original does too, in one of several runs?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from vmipatch.verify.boots import BootResult
from vmipatch.verify.console import (
    FOREIGN_RULES,
    RULES,
    complaints,
    is_smp,
    multiset_differences,
    normalised,
)
from vmipatch.verify.user_space import Trace, head
from vmipatch.verify.variation.calls import Pattern
from vmipatch.verify.variation.console import ConsoleLines

_ALIKE: Final = 0.8
"""Share of calls that two processes have in common if they run the same program."""


@dataclass(frozen=True, slots=True)
class _Process:
    """A process of the original, and its number in the first run that has it."""

    number: int
    pattern: Pattern
    is_optional: bool = False
    """Whether there are runs without it."""


@dataclass(frozen=True, slots=True)
class Variation:
    """Several runs of the original: their common part, and what varies."""

    runs: int
    processes: tuple[_Process, ...] = field(repr=False)
    """Those that do not do the same in all runs."""
    steady: tuple[Trace, ...] = field(repr=False)
    """Those that do."""
    consoles: tuple[tuple[str, ...], ...] = field(repr=False)
    """Lines of each run, normalised."""
    lines: ConsoleLines = field(repr=False)
    complaints: tuple[str, ...] = field(repr=False)
    """Each as often as one of the runs has it."""
    is_smp: bool
    foreign: bool

    @classmethod
    def of(cls, boots: Sequence[BootResult], *, foreign: bool) -> Variation:
        """`boots`: of the original, the first without a shift; `foreign` as for `differences`."""
        steady = Counter(boots[0].traces)
        for boot in boots[1:]:
            steady &= Counter(boot.traces)
        smp = is_smp(boots[0].console.splitlines())
        consoles = tuple(_normalised(boot.console, smp, foreign) for boot in boots)
        most: Counter[str] = Counter()
        for boot in boots:
            most |= Counter(complaints(boot.console))
        processes = _kinds(_slots(boots, steady), len(boots), boots[0].traces, steady)
        return cls(
            len(boots),
            tuple(processes),
            tuple(steady.elements()),
            consoles,
            ConsoleLines.of(consoles),
            tuple(sorted(most.elements())),
            smp,
            foreign,
        )

    @property
    def varies(self) -> tuple[str, ...]:
        """A line for each place that varies."""
        found = [
            f"process {process.number}: is not there in every run"
            for process in self.processes
            if process.is_optional
        ]
        kinds: dict[Pattern, list[int]] = {}
        for process in self.processes:
            kinds.setdefault(process.pattern, []).append(process.number)
        for pattern, numbers in kinds.items():
            where = f"process {', '.join(map(str, sorted(numbers)))}"
            found += [f"{where}: {what}" for what in pattern.varies]
        return (*found, *(f"console: {what}" for what in self.lines.varies))

    def objects(self, boot: BootResult) -> bool:
        """Whether `boot` does anything that no run allows."""
        return bool(
            self.complaint_differences(boot.console)
            or self.console_differences(boot.console)
            or self.call_differences(boot.traces)
        )

    def complaint_differences(self, console: str) -> list[str]:
        """The kernel's complaints that no run has, or none as often."""
        return list((Counter(complaints(console)) - Counter(self.complaints)).elements())

    def console_differences(self, console: str) -> list[str]:
        """Lines that no run allows: they begin with `-` or `+`."""
        lines = _normalised(console, self.is_smp, self.foreign)
        if self.is_smp:
            return multiset_differences(self.consoles, lines)
        return self.lines.differences(lines)

    def call_differences(self, traces: Sequence[Trace]) -> list[str]:
        """How processes differ from those of every run, one line a process."""
        steady, found = Counter(self.steady), Counter(traces)
        rest = list((found - steady).elements())
        wanted = list(self.processes)
        matched = _match(wanted, rest)
        for trace in (steady - found).elements():
            wanted.append(_Process(self.steady.index(trace) + 1, Pattern.of([trace])))
        left = [process for i, process in enumerate(wanted) if i not in matched]
        taken = set(matched.values())
        return list(_compared(left, [t for i, t in enumerate(rest) if i not in taken]))


def _normalised(console: str, smp: bool, foreign: bool) -> tuple[str, ...]:
    rules = RULES + FOREIGN_RULES if foreign else RULES
    return tuple(normalised(console.splitlines(), smp, rules))


@dataclass(slots=True)
class _Slot:
    """A process that varies, in the runs that have it."""

    number: int
    traces: list[Trace]


def _slots(boots: Sequence[BootResult], steady: Counter[Trace]) -> list[_Slot]:
    """The processes that vary: those that are most alike are taken for the same one."""
    slots: list[_Slot] = []
    for boot in boots:
        left = Counter(boot.traces) - steady
        numbered = []
        for number, trace in enumerate(boot.traces, start=1):
            if left[trace]:
                left[trace] -= 1
                numbered.append((number, trace))
        partner = _alike([slot.traces[0] for slot in slots], [trace for _, trace in numbered])
        for i, (number, trace) in enumerate(numbered):
            if i in partner:
                slots[partner[i]].traces.append(trace)
            else:
                slots.append(_Slot(number, [trace]))
    return slots


def _kinds(
    slots: Sequence[_Slot], runs: int, first: Sequence[Trace], steady: Counter[Trace]
) -> Iterator[_Process]:
    """The processes that vary, by kind: what one may do, another of the same program may do too.

    Processes of such a program that happened to do the same in all runs are taken out of `steady`.
    """
    kinds: list[list[_Slot]] = []
    for slot in slots:
        kind = next((kind for kind in kinds if _is_like(kind[0].traces[0], slot.traces[0])), None)
        if kind is None:
            kinds.append([slot])
        else:
            kind.append(slot)
    quiet: list[list[tuple[int, Trace]]] = [[] for _ in kinds]
    for number, trace in enumerate(first, start=1):
        found = (i for i, kind in enumerate(kinds) if _is_like(kind[0].traces[0], trace))
        if steady[trace] and (of := next(found, None)) is not None:
            steady[trace] -= 1
            quiet[of].append((number, trace))
    for kind, others in zip(kinds, quiet, strict=True):
        every = [trace for slot in kind for trace in slot.traces]
        pattern = Pattern.of(list(dict.fromkeys(every + [trace for _, trace in others])))
        for slot in kind:
            yield _Process(slot.number, pattern, is_optional=len(slot.traces) < runs)
        for number, _ in others:
            yield _Process(number, pattern)


def _is_like(one: Trace, other: Trace) -> bool:
    return _likeness(Counter(one), Counter(other)) >= _ALIKE


def _alike(ones: Sequence[Trace], others: Sequence[Trace]) -> dict[int, int]:
    """From a number in `others` to one in `ones`: pairs that share the most calls come first."""
    bags = [Counter(one) for one in ones]
    scores = sorted(
        (-_likeness(bag, Counter(other)), abs(i - j), i, j)
        for i, bag in enumerate(bags)
        for j, other in enumerate(others)
    )
    partner: dict[int, int] = {}
    taken: set[int] = set()
    for score, _, i, j in scores:
        if score and i not in taken and j not in partner:
            partner[j] = i
            taken.add(i)
    return partner


def _likeness(one: Counter[str], other: Counter[str]) -> float:
    return 2 * (one & other).total() / max(1, one.total() + other.total())


def _match(wanted: Sequence[_Process], traces: Sequence[Trace]) -> dict[int, int]:
    """From a process to the trace that may be its: as many as possible, those that must be first.

    Source: augmenting paths (Kuhn, 1955).
    """
    fits = {
        i: [j for j, trace in enumerate(traces) if process.pattern.objection(trace) is None]
        for i, process in enumerate(wanted)
    }
    owner: dict[int, int] = {}

    def find(i: int, seen: set[int]) -> bool:
        for j in fits[i]:
            if j in seen:
                continue
            seen.add(j)
            if j not in owner or find(owner[j], seen):
                owner[j] = i
                return True
        return False

    for i in sorted(fits, key=lambda i: wanted[i].is_optional):
        find(i, set())
    return {i: j for j, i in owner.items()}


def _compared(left: Sequence[_Process], traces: Sequence[Trace]) -> Iterator[str]:
    """Lines about processes and traces that do not fit each other: the nearest are compared."""
    near = [
        (found, i, j)
        for i, process in enumerate(left)
        for j, trace in enumerate(traces)
        if (found := process.pattern.objection(trace)) is not None
    ]
    used: set[int] = set()
    compared: set[int] = set()
    for found, i, j in sorted(near, key=lambda each: (-each[0].number, *each[1:])):
        if i not in used and j not in compared:
            used.add(i)
            compared.add(j)
            where = f"process {left[i].number}, call {found.number + 1}"
            yield f"{where}: `{found.expected}` has become `{found.found}`"
    for i, process in enumerate(left):
        if i not in used and not process.is_optional:
            calls = tuple(str(each) for each in process.pattern.elements if each.parts)
            yield f"a process is missing: {head(calls)}"
    for j, trace in enumerate(traces):
        if j not in compared:
            yield f"a process is new: {head(trace)}"

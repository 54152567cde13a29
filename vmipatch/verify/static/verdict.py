# SPDX-License-Identifier: MIT
"""What did the static proof find, and how much did it look at?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from vmipatch.verify.static.rules import RULES, Rule

RECOVERED = "addresses that stay"
"""A count that there is only if the references of the original were recovered."""

KEPT_OF_A_RULE = 100
"""Findings kept of one rule; more are only counted."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One place where a rule does not hold."""

    rule: Rule
    va: int
    """Address in the output, 0 where a finding has none."""
    place: str
    """Function and offset, or section and index."""
    message: str

    def __str__(self) -> str:
        return f"{self.rule.number} {self.va:#010x} {self.place}: {self.message}"


@dataclass(frozen=True, slots=True)
class StaticVerdict:
    """The result of a static proof."""

    findings: tuple[Finding, ...]
    """At most KEPT_OF_A_RULE of each rule, by rule and address."""
    totals: dict[Rule, int] = field(hash=False)
    """How many findings each rule has in all; rules without are missing."""
    counts: dict[str, int] = field(hash=False)
    """What was looked at, in words such as `instructions`."""

    @property
    def holds(self) -> bool:
        """Whether the output was proven."""
        return not self.totals


@dataclass(slots=True)
class Report:
    """Collects findings and counts while the rules run."""

    place_of: Callable[[int], str]
    """Names an output address."""
    counts: Counter[str] = field(default_factory=Counter)
    _findings: list[Finding] = field(default_factory=list)
    _totals: Counter[Rule] = field(default_factory=Counter)

    def add(self, rule: Rule, va: int, message: str, place: str | None = None) -> None:
        """Note that `rule` does not hold at output address `va`."""
        self._totals[rule] += 1
        if self._totals[rule] <= KEPT_OF_A_RULE:
            where = self.place_of(va) if place is None else place
            self._findings.append(Finding(rule, va, where, message))

    def verdict(self) -> StaticVerdict:
        """What was found, sorted."""
        rank = {rule: index for index, rule in enumerate(RULES)}
        found = sorted(self._findings, key=lambda f: (rank[f.rule], f.va, f.place, f.message))
        totals = {rule: self._totals[rule] for rule in RULES if self._totals[rule]}
        return StaticVerdict(tuple(found), totals, dict(sorted(self.counts.items())))

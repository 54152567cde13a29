# SPDX-License-Identifier: MIT
"""What did the static proof find, and how much did it look at?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from vmipatch.errors import escaped
from vmipatch.verify.static.file_ledger import FileLedger
from vmipatch.verify.static.rules import RULES, Rule
from vmipatch.verify.static.signature import Foreign

RECOVERED = "addresses that stay"
"""A count that there is only if the references of the original were recovered."""

BYTES = "bytes of the bzImage"
NOT_PACKED_AGAIN = "payloads not packed again"
NAMED_KEPT = "bytes that are kept by name"
OTHER_START = "runtimes that do not run before start_kernel"
"""Counts that there are only of a bzImage; the second if this machine's compressor does not give
the original's stream."""

KEPT_OF_A_RULE = 100
"""Findings kept of one rule; more are only counted."""


@dataclass(frozen=True, slots=True)
class StaticFinding:
    """One place where a rule does not hold."""

    rule: Rule
    va: int
    """Address in the output, 0 where a finding has none."""
    place: str
    """Function and offset, or section and index."""
    message: str

    def __str__(self) -> str:
        return escaped(f"{self.rule.number} {self.va:#010x} {self.place}: {self.message}")


@dataclass(frozen=True, slots=True)
class StaticVerdict:
    """The result of a static proof."""

    findings: tuple[StaticFinding, ...]
    """At most KEPT_OF_A_RULE of each rule, by rule and address."""
    totals: dict[Rule, int] = field(hash=False)
    """How many findings each rule has in all; rules without are missing."""
    counts: dict[str, int] = field(hash=False)
    """The items looked at, in words such as `instructions`."""
    signatures: tuple[Foreign, ...] = ()
    """Signatures that were put on the output after it was rewritten."""
    file: FileLedger | None = None
    """By what each byte of the file is explained; None if it was not built anew."""

    @property
    def holds(self) -> bool:
        """Whether the output was proven."""
        return not self.totals

    def __add__(self, other: StaticVerdict) -> StaticVerdict:
        """The findings of both, of two parts of one file."""
        rank = {rule: index for index, rule in enumerate(RULES)}
        found = sorted(self.findings + other.findings, key=lambda f: rank[f.rule])
        totals = Counter(self.totals) + Counter(other.totals)
        counts = Counter(self.counts) + Counter(other.counts)
        return StaticVerdict(
            tuple(found),
            {rule: totals[rule] for rule in RULES if totals[rule]},
            dict(sorted(counts.items())),
            self.signatures + other.signatures,
            self.file or other.file,
        )


@dataclass(slots=True)
class Report:
    """Collects findings and counts while the rules run."""

    place_of: Callable[[int], str]
    """Names an output address."""
    counts: Counter[str] = field(default_factory=Counter)
    signatures: list[Foreign] = field(default_factory=list)
    file: FileLedger | None = None
    """The account of the file's bytes, of `check_file`."""
    _findings: list[StaticFinding] = field(default_factory=list)
    _totals: Counter[Rule] = field(default_factory=Counter)

    def add(self, rule: Rule, va: int, message: str, place: str | None = None) -> None:
        """Note that `rule` does not hold at output address `va`."""
        self._totals[rule] += 1
        if self._totals[rule] <= KEPT_OF_A_RULE:
            where = self.place_of(va) if place is None else place
            self._findings.append(StaticFinding(rule, va, where, message))

    @property
    def has_findings(self) -> bool:
        """Whether a rule does not hold so far."""
        return bool(self._totals)

    def verdict(self) -> StaticVerdict:
        """The findings, sorted."""
        rank = {rule: index for index, rule in enumerate(RULES)}
        found = sorted(self._findings, key=lambda f: (rank[f.rule], f.va, f.place, f.message))
        totals = {rule: self._totals[rule] for rule in RULES if self._totals[rule]}
        counts = dict(sorted(self.counts.items()))
        signatures = tuple(self.signatures)
        return StaticVerdict(tuple(found), totals, counts, signatures, self.file)

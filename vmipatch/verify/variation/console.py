# SPDX-License-Identifier: MIT
"""May a console show these lines, if the original's showed those in several runs?

Where all runs agree, it has to. Where they do not, there are words that come more often in one run
than in another, and words that only move: into another column or line. The latter have to come as
often as in the original, the former may come as often as they like.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from vmipatch.verify.variation.align import Gap, gaps, opcodes


@dataclass(slots=True)
class _Region:
    """Lines of two consoles that differ, and lines of varying words between them."""

    start: int
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)

    def add(self, before: Sequence[str], after: Sequence[str]) -> None:
        """Lines that differ."""
        self.before += before
        self.after += after
        self.changes += [*(f"- {line}" for line in before), *(f"+ {line}" for line in after)]


@dataclass(frozen=True, slots=True)
class ConsoleLines:
    """The lines of a console in all runs of the original."""

    first: tuple[str, ...]
    gaps: tuple[Gap, ...]
    known: frozenset[str]
    """Words of lines that are not the same in all runs."""
    varying: frozenset[str]
    """Those of them that do not come as often in all runs."""

    @classmethod
    def of(cls, consoles: Sequence[Sequence[str]]) -> ConsoleLines:
        """The pattern of several consoles."""
        first = tuple(consoles[0])
        found = gaps(first, consoles[1:])
        known: set[str] = set()
        varying: set[str] = set()
        for gap in found:
            counts = [Counter(_words(each)) for each in gap.alternatives]
            words = {word for each in counts for word in each}
            known |= words
            varying |= {word for word in words if len({each[word] for each in counts}) > 1}
        return cls(first, found, frozenset(known), frozenset(varying))

    @property
    def varies(self) -> tuple[str, ...]:
        """Lines about what varies."""
        places = [f"from line {gap.start + 1} on {_counted(gap)}" for gap in self.gaps]
        words = f"words that come more or less often: {' '.join(sorted(self.varying))}"
        return (*places, words) if self.varying else tuple(places)

    def differences(self, lines: Sequence[str]) -> list[str]:
        """Lines that no run allows: those that are missing with `-`, new ones with `+`."""
        found: list[str] = []
        region: _Region | None = None
        for tag, i1, i2, j1, j2 in opcodes(self.first, lines):
            if tag != "equal":
                region = region or _Region(i1)
                region.add(self.first[i1:i2], lines[j1:j2])
                continue
            for at in range(i1, i2):
                line = self.first[at]
                if not self.known.issuperset(line.split()):
                    found += self._wrong(region)
                    region = None
                else:
                    region = region or _Region(at)
                    region.before.append(line)
                    region.after.append(line)
        return found + self._wrong(region)

    def _wrong(self, region: _Region | None) -> list[str]:
        """The findings about a region."""
        if region is None or not region.changes:
            return []
        before, after = Counter(_words(region.before)), Counter(_words(region.after))
        words = before.keys() | after.keys()
        if not words <= self.known:
            return region.changes
        return [
            f"{'-' if after[word] < before[word] else '+'} {word} ({after[word]} instead of "
            f"{before[word]}, from line {region.start + 1} on)"
            for word in sorted(words - self.varying)
            if before[word] != after[word]
        ]


def _words(lines: Iterable[str]) -> list[str]:
    return [word for line in lines for word in line.split()]


def _counted(gap: Gap) -> str:
    counts = sorted({len(each) for each in gap.alternatives})
    some = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
    example = next((line for each in gap.alternatives for line in each), "")
    return f"{some} lines, such as `{example}`"

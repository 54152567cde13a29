# SPDX-License-Identifier: MIT
"""What became of all the damaged copies of one file? Counted by what was hit, and how."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.support.sweep import DamageDetail, Target, sweep
from vmipatch.image.elf import ElfImage


@dataclass(slots=True)
class Tally:
    """Counts of the outcomes of damaged files."""

    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """By what was hit, the way, and the outcome."""

    def note(self, name: str, way: str, outcome: str) -> None:
        """One more."""
        self.counts[name, way, outcome] += 1

    def __str__(self) -> str:
        parts = []
        for column, title in ((0, "by what was hit"), (1, "by way")):
            rows: dict[str, Counter[str]] = {}
            for key, count in self.counts.items():
                rows.setdefault(key[column], Counter())[key[2]] += count
            parts.append(f"{title}:")
            parts += [f"  {name}: {dict(sorted(row.items()))}" for name, row in rows.items()]
        outcomes: Counter[str] = Counter()
        for (_, _, outcome), count in self.counts.items():
            outcomes[outcome] += count
        return "\n".join([*parts, f"all: {dict(sorted(outcomes.items()))}"])


def campaign(
    image: ElfImage, chosen: list[Target], examples: int, salt: int, judge: Callable[[bytes], str]
) -> Tally:
    """Damage a file in every chosen way; fails with all complaints."""
    tally = Tally()

    def check(target: Target, detail: DamageDetail) -> None:
        data = target.damage(image, detail)
        try:
            outcome = judge(data) if data != image.data else "no damage"
        except Exception:
            tally.note(target.name, target.way.value, "FAILED")
            raise
        tally.note(target.name, target.way.value, outcome)

    complaints = sweep(chosen, examples, salt, check)
    print(f"{image.name}, salt {salt}:\n{tally}", file=sys.stderr)
    assert not complaints, "\n".join(complaints)
    visited = {(name, way) for name, way, _ in tally.counts}
    assert visited == {(target.name, target.way.value) for target in chosen}
    return tally

# SPDX-License-Identifier: MIT
"""What do several runs of one measurement say together?"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunResults:
    """The results of several runs, in the order in which they ran; at least one."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> RunResults:
        """Collect `values`."""
        return cls(tuple(values))

    @property
    def median(self) -> float:
        """The middle value: one run that something disturbed does not change it."""
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """The smallest and the greatest value."""
        return min(self.values), max(self.values)

    def ratio_to(self, other: RunResults) -> RunResults:
        """Run by run, this measurement over `other`, which ran beside it."""
        return RunResults.of(a / b for a, b in zip(self.values, other.values, strict=True))

    def to_text(self, places: int) -> str:
        """`median (smallest .. greatest)` with so many decimal places."""
        low, high = self.spread
        return f"{self.median:.{places}f} ({low:.{places}f} .. {high:.{places}f})"

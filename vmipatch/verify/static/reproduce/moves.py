# SPDX-License-Identifier: MIT
"""Where does each address of the original go, if its code changes its length in these places?

The map of the layout alone: made from the original and the list of changes, not from the output.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from vmipatch.verify.static.side import I64


@dataclass(frozen=True, slots=True, eq=False)
class Moves:
    """From `starts[i]` on addresses move by `deltas[i]`; an end is where its successor begins."""

    starts: I64
    deltas: I64

    @classmethod
    def of(cls, pieces: Iterable[tuple[int, int]]) -> Moves:
        """From pairs of start and distance. Of two with one start the later one counts."""
        rows = np.array([(-1, 0), *pieces], np.int64)
        rows = rows[np.argsort(rows[:, 0], kind="stable")]
        is_last = np.append(rows[1:, 0] != rows[:-1, 0], True)
        return cls(rows[is_last, 0], rows[is_last, 1])

    def __call__(self, vas: I64) -> I64:
        """The new addresses."""
        return vas + self.deltas[np.searchsorted(self.starts, vas, side="right") - 1]

    def one(self, va: int) -> int:
        """The new address of one old address."""
        return int(self(np.array([va], np.int64))[0])

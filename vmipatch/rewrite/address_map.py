# SPDX-License-Identifier: MIT
"""Where every address of the original image is in the new one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False)
class AddressMap:
    """A piecewise constant shift: from `starts[i]` on, addresses move by `deltas[i]`.

    An address between two instructions belongs to the one that begins there, so the end of a
    range maps to where its successor begins.
    """

    starts: np.ndarray
    """Old addresses (i64, ascending, the first is 0) at which another shift begins."""
    deltas: np.ndarray
    """New address minus old address (i64)."""

    @classmethod
    def of(cls, pieces: Iterable[tuple[int, int]]) -> AddressMap:
        """Build from (old start address, shift) pairs; below the first nothing moves.

        Of pairs with one start the last rules.
        """
        merged: list[tuple[int, int]] = [(0, 0)]
        for start, delta in sorted(pieces, key=lambda piece: piece[0]):
            if start == merged[-1][0]:
                merged[-1] = (start, delta)
            elif delta != merged[-1][1]:
                merged.append((start, delta))
        starts, deltas = zip(*merged, strict=True)
        return cls(np.array(starts, dtype=np.int64), np.array(deltas, dtype=np.int64))

    def delta(self, vas: np.ndarray) -> np.ndarray:
        """How far each of `vas` moves (i64 array of the same shape)."""
        at = np.searchsorted(self.starts, np.asarray(vas, dtype=np.int64), side="right") - 1
        found: np.ndarray = self.deltas[at]
        return found

    def __call__(self, vas: np.ndarray) -> np.ndarray:
        """The new addresses of `vas` (i64 array of the same shape)."""
        old = np.asarray(vas, dtype=np.int64)
        new: np.ndarray = old + self.delta(old)
        return new

    def one(self, va: int) -> int:
        """The new address of one old address."""
        at = int(np.searchsorted(self.starts, va, side="right")) - 1
        return va + int(self.deltas[at])

    def inverse(self) -> AddressMap:
        """The map from new to old addresses; addresses of inserted bytes map to their owner."""
        news = self.starts + self.deltas
        order = np.argsort(news, kind="stable")
        return AddressMap(news[order], -self.deltas[order])


@dataclass(frozen=True, slots=True)
class Places:
    """Where each site is in the new image: in its place, or out of line."""

    map: AddressMap
    out_of_line: Mapping[int, int] = field(hash=False)

    def one(self, va: int) -> int:
        """The new address of the site at `va`."""
        found = self.out_of_line.get(va)
        return self.map.one(va) if found is None else found

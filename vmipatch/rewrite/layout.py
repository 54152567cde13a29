# SPDX-License-Identifier: MIT
"""Where each instruction of a region goes when sites grow and padding gives way.

Growth drifts everything after it; padding between functions takes the drift back. Each run of
padding restores the original addresses if it can, so that most of the code never moves, and gives
up more than that only where what follows needs it: a backward pass computes how much drift the
rest of the region can bear, a forward pass spends padding accordingly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vmipatch.errors import VmipatchError


class NoRoom(VmipatchError):
    """The growth of a region exceeds its padding and slack; `missing` bytes would do."""

    def __init__(self, missing: int) -> None:
        super().__init__(f"the code grows by {missing} bytes more than there is padding for")
        self.missing = missing


@dataclass(frozen=True, slots=True)
class Change:
    """`old_len` bytes at `va` become `new_len` bytes: a site, or a branch that became near."""

    va: int
    old_len: int
    new_len: int


@dataclass(frozen=True, slots=True)
class FillerRun:
    """A run of filler in front of a function, which may change its length.

    What follows keeps its alignment: its drift stays a multiple of `align`. At least `keep`
    bytes stay (speculation barriers).
    """

    va: int
    old_len: int
    align: int = 1
    keep: int = 0

    @property
    def spare(self) -> int:
        """Bytes that can be taken away."""
        return self.old_len - self.keep


PREFERRED_ALIGN = 16
"""Function alignment of x86 kernels; kept where padding suffices."""


def fit(items: Sequence[Change | FillerRun], max_drift: int) -> list[Change]:
    """Decide the new length of every padding so that the region ends at most `max_drift` later.

    `items` are in address order and do not overlap. Returns one Change for each item whose
    length changes. Raises NoRoom.
    """
    bearable = _bearable(items, max_drift)
    if bearable[0] < 0:
        raise NoRoom(_least_drift(items) - max_drift)
    drift = 0
    changes: list[Change] = []
    for item, limit in zip(items, bearable[1:], strict=True):
        if isinstance(item, Change):
            drift += item.new_len - item.old_len
            changes.append(item)
            continue
        if not drift and limit >= 0:
            continue  # nearly everywhere
        after = _drift_behind(item, drift, limit)
        if after != drift:
            changes.append(Change(item.va, item.old_len, item.old_len + after - drift))
        drift = after
    return changes


def _bearable(items: Sequence[Change | FillerRun], max_drift: int) -> list[int]:
    """The largest drift before each item, and at the end, with which the region still fits."""
    limits = [max_drift]
    for item in reversed(items):
        limit = limits[-1]
        if isinstance(item, Change):
            limits.append(limit - (item.new_len - item.old_len))
        else:
            limits[-1] = _round_down(limit, item.align)
            limits.append(limits[-1] + item.spare)
    return limits[::-1]


def _least_drift(items: Sequence[Change | FillerRun]) -> int:
    """The drift at the end if every padding gives what it can."""
    drift = 0
    for item in items:
        if isinstance(item, Change):
            drift += item.new_len - item.old_len
        else:
            drift = -_round_down(item.spare - drift, item.align)
    return drift


def _drift_behind(padding: FillerRun, drift: int, limit: int) -> int:
    """The drift after a padding: none if possible, the least harmful one otherwise."""
    least = drift - padding.spare
    goal = min(0, limit)
    aligned = _round_down(goal, max(padding.align, PREFERRED_ALIGN))
    for wish in (aligned, goal):
        if least <= wish:
            return wish
    return -_round_down(-least, padding.align)


def _round_down(value: int, align: int) -> int:
    return value // align * align

# SPDX-License-Identifier: MIT
"""To which addresses of the original do branches, relocated words and tables point?"""

from __future__ import annotations

import numpy as np

from vmipatch.image.ascending import among, distinct
from vmipatch.image.relocations import R_386_32
from vmipatch.tables.table import Tables
from vmipatch.verify.static.side import I64, Flags, Side


def targets(left: Side, relocated: np.ndarray, tables: Tables) -> I64:
    """Every such address, ascending; `relocated` are the original's Relocations.entries."""
    branches = np.flatnonzero(left.widths > 0)
    places = relocated["va"].astype(np.int64)
    relative = relocated["kind"] != R_386_32
    words = relocated["value"].astype(np.int64)
    words = (words + np.where(relative, places, 0)) & 0xFFFFFFFF
    held = [t.address_words["target_va"].astype(np.int64) for t in tables]
    named = [t.operand_words["va"].astype(np.int64) for t in tables]
    operands = distinct(np.concatenate([np.zeros(0, np.int64), *named]))
    words = words[~displacements(left, places) & ~among(places, operands)]
    return distinct(np.concatenate([left.linked_targets(branches), words, *held]))


def displacements(left: Side, vas: I64) -> Flags:
    """Which words are displacements of direct branches."""
    over = left.over(vas)
    index = np.maximum(over, 0)
    at_end = left.ends[index] - vas == 4
    return np.asarray((over >= 0) & (left.widths[index] == 4) & at_end)


def anchored(left: Side, led_to: I64, tables: Tables) -> Flags:
    """Instructions at `led_to`, or that the kernel counts on as they are."""
    result = np.zeros(len(left), np.bool_)
    index = left.find(led_to)
    result[index[index >= 0]] = True
    for table in tables:
        places = table.places[table.places["len"] > 0]
        start = places["va"].astype(np.int64)
        begin = np.searchsorted(left.starts, start)
        end = np.searchsorted(left.starts, start + places["len"])
        for low, high in zip(begin.tolist(), end.tolist(), strict=True):
            result[low:high] = True
    return result

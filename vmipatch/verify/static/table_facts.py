# SPDX-License-Identifier: MIT
"""Which words and ranges of the original do its kernel tables judge?"""

from __future__ import annotations

import numpy as np

from vmipatch.tables.table import Order, Tables, WordForm
from vmipatch.verify.static.side import I64

OPCODE_LEN = np.uint32(1)
"""Bytes of a near jmp before its displacement."""


def copied_branches(tables: Tables) -> dict[int, int]:
    """Address and target of each jump of the original that only its copy executes."""
    found: dict[int, int] = {}
    for table in tables:
        words = table.words[table.words["form"] == WordForm.COPIED_BRANCH]
        found |= zip((words["va"] - OPCODE_LEN).tolist(), words["target_va"].tolist(), strict=True)
    return found


def covered_words(tables: Tables) -> I64:
    """Addresses in the original of all words that VP020 judges."""
    return np.concatenate(
        [np.zeros(0, np.int64), *(t.words["va"].astype(np.int64) for t in tables)]
    )


def sorted_ranges(tables: Tables) -> list[tuple[int, int]]:
    """Tables of the original whose entries may change places."""
    return [(t.start_va, t.end_va) for t in tables if t.order is Order.SORTED]

# SPDX-License-Identifier: MIT
"""Does the table of native instructions name all that the hypervisor has to emulate?"""

from __future__ import annotations

from collections import Counter

import numpy as np

from vmipatch.isa.classify import classify
from vmipatch.tables.table import Role, TableName
from vmipatch.verify.static.added import FALLBACK, pairs
from vmipatch.verify.static.candidates import candidates
from vmipatch.verify.static.comparison import Comparison, judges
from vmipatch.verify.static.rules import FALLBACK_ENTRY


@judges(FALLBACK_ENTRY)
def check_fallback(comparison: Comparison) -> None:
    """Each entry names an instruction that is silently wrong at CPL 1, and its first byte.

    All such instructions without a record have one entry, but those of replacements of
    alternatives, which run where they are copied to.
    """
    output, report = comparison.output, comparison.report
    side, bodies = comparison.right, comparison.bodies
    entries = pairs(output, FALLBACK)
    _check_whole(comparison, Counter(e[2] for e in entries))
    for index, va, native_va, first in entries:
        report.counts["fallback entries"] += 1
        found = int(side.find(np.array([native_va], np.int64))[0])
        form = classify(side.code(found)) if found >= 0 else None
        where = f"{FALLBACK}[{index}] ({output.symbols.place_of(native_va)})"
        if form is None or not form.is_unprivileged or bodies.body_of[found] >= 0:
            message = f"{native_va:#x} is not an unprivileged instruction without a record"
            report.add(FALLBACK_ENTRY, va, message, where)
        elif side.code(found)[0] != first:
            message = f"{side.code(found)[0]:02x} stands there, the table says {first:02x}"
            report.add(FALLBACK_ENTRY, va, message, where)


def _check_whole(comparison: Comparison, listed: Counter[int]) -> None:
    side = comparison.right
    which = candidates(side)
    which = which[comparison.bodies.body_of[which] < 0]
    copied = np.array(sorted(_replacements(comparison)), np.int64).reshape(-1, 2)
    at = np.searchsorted(copied[:, 0], side.starts[which], side="right") - 1
    if len(copied):
        which = which[(at < 0) | (side.starts[which] >= copied[np.maximum(at, 0), 1])]
    for index in which.tolist():
        va, form = int(side.starts[index]), classify(side.code(index))
        if form is None or not form.is_unprivileged:
            continue
        if listed[va] != 1:
            message = f"{form.name} without a record has {listed[va]} entries in the table"
            comparison.report.add(FALLBACK_ENTRY, va, message)


def _replacements(comparison: Comparison) -> list[tuple[int, int]]:
    """Ranges of the output that hold alternatives: they run where they are copied to."""
    table = comparison.tables.get(TableName.ALTERNATIVES)
    if table is None:
        return []
    places = table.places_of(Role.REPLACEMENT)
    places = places[places["len"] > 0]
    start = comparison.images(places["va"].astype(np.int64))
    return list(zip(start.tolist(), (start + places["len"]).tolist(), strict=True))

# SPDX-License-Identifier: MIT
"""Which ranges of the original keep their instructions, and for which reason?

Computed by the proof from the original alone: its tables, its symbols and the second decoder's view
of its code. A record in one of them, or a reason that holds of none of them, is a finding.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from vmipatch.isa.emulated import CPUID, XEN_PREFIX, emulated_prefixes
from vmipatch.tables.table import Role, TableName
from vmipatch.verify.static.before_paging import Graph, before_paging
from vmipatch.verify.static.comparison import Comparison
from vmipatch.verify.static.copied import copied_code
from vmipatch.verify.static.entries import entry_rows
from vmipatch.verify.static.own_address import folded
from vmipatch.verify.static.reasons import NativeReason
from vmipatch.verify.static.routines import firmware_ranges

Range = tuple[int, int]
PLACES = (
    (NativeReason.ALTERNATIVE, TableName.ALTERNATIVES, Role.INSTRUCTION),
    (NativeReason.ALTERNATIVE, TableName.PARAINSTRUCTIONS, Role.INSTRUCTION),
    (NativeReason.REPLACEMENT, TableName.ALTERNATIVES, Role.REPLACEMENT),
    (NativeReason.PATCHED, TableName.JUMP_TABLE, Role.INSTRUCTION),
    (NativeReason.PATCHED, TableName.MCOUNT, Role.INSTRUCTION),
    (NativeReason.PATCHED, TableName.STATIC_CALLS, Role.INSTRUCTION),
)
"""Code that the kernel replaces, copies over other code, or patches at run time."""
STUBS = (TableName.IRQ_STUBS, TableName.SPURIOUS_STUBS, TableName.EARLY_STUBS)


@dataclass(frozen=True, slots=True, eq=False)
class _Ranges:
    """Half-open ranges in order of their starts."""

    starts: list[int]
    reach: list[int]
    """The highest end among each range and those before it."""

    @classmethod
    def of(cls, ranges: list[Range]) -> _Ranges:
        ordered = sorted(ranges)
        return cls([start for start, _ in ordered], list(accumulate((e for _, e in ordered), max)))

    def overlap(self, start_va: int, end_va: int) -> bool:
        """Whether one of them shares an address with [start, end)."""
        at = bisect_left(self.starts, end_va) - 1
        return at >= 0 and self.reach[at] > start_va


@dataclass(frozen=True, slots=True)
class Zones:
    """All ranges, by reason."""

    ranges: Mapping[NativeReason, _Ranges] = field(hash=False)

    def reasons(self, start_va: int, end_va: int) -> set[NativeReason]:
        """The reasons for which something of [start, end) keeps its instructions."""
        return {why for why, ranges in self.ranges.items() if ranges.overlap(start_va, end_va)}


def zones_of(comparison: Comparison) -> Zones:
    """Compute them all."""
    found: dict[NativeReason, list[Range]] = {why: [] for why, _, _ in PLACES}
    for why, name, role in PLACES:
        places = comparison.tables.places(name, role)
        starts = places["va"].astype(np.int64)
        found[why] += zip(starts.tolist(), (starts + places["len"]).tolist(), strict=True)
    found[NativeReason.BEFORE_PAGING] = _before_paging(comparison)
    found[NativeReason.FIXED_STRIDE] = list(_fixed_strides(comparison))
    found[NativeReason.FIRMWARE] = firmware_ranges(comparison.original)
    found[NativeReason.COPIED] = copied_code(comparison)
    found[NativeReason.OWN_ADDRESS] = [
        (min(one.label_va - 1, one.named_va), max(one.label_va, one.named_va) + 1)
        for one in folded(comparison)
        # A copy reads its own address where it runs, and is kept whole.
        if not any(start <= one.label_va < end for start, end in found[NativeReason.COPIED])
    ]
    found[NativeReason.EMULATED] = list(_emulated(comparison))
    return Zones({why: _Ranges.of(ranges) for why, ranges in found.items()})


def _before_paging(comparison: Comparison) -> list[Range]:
    side = comparison.left
    hook_va = -1 if comparison.hook is None else comparison.hook.va
    graph = Graph.of(side, comparison.relocated, comparison.images.physical, hook_va)
    which = np.flatnonzero(before_paging(graph))
    return list(zip(side.starts[which].tolist(), side.ends[which].tolist(), strict=True))


def _fixed_strides(comparison: Comparison) -> Iterator[Range]:
    """Arrays of stubs, and functions at computed distances up to the start of the last."""
    for name in STUBS:
        table = comparison.tables.get(name)
        if table is not None:
            yield table.start_va, table.end_va
    for row in entry_rows(comparison):
        yield row[0], row[-1]


def _emulated(comparison: Comparison) -> Iterator[Range]:
    length = len(XEN_PREFIX) + len(CPUID)
    for section in comparison.left.sections:
        code = comparison.original.section_bytes(section)
        for at in emulated_prefixes(code):
            yield section.va + at, section.va + at + length

# SPDX-License-Identifier: MIT
"""A range of code that is laid out anew, and the things in it that change their length."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from vmipatch.image.ascending import among
from vmipatch.isa.decode import Flow, InstructionStream, Shape
from vmipatch.rewrite.aligned import aligned_on_purpose, alignment
from vmipatch.rewrite.body import NativeBody
from vmipatch.rewrite.layout import Change, FillerRun
from vmipatch.scan.code import CodeMap
from vmipatch.scan.site import Site
from vmipatch.scan.zones import Zones

PAGE = 0x1000
BARRIER_LEN = 1
"""Bytes of int3 that stay after a ret or jmp: they stop straight-line speculation."""


@dataclass(frozen=True)
class Region:
    """One executable section to be laid out: its paddings, and its sites with their bodies."""

    stream: InstructionStream
    sites: tuple[tuple[Site, NativeBody], ...]
    paddings: tuple[FillerRun, ...]

    @classmethod
    def of(
        cls,
        code_map: CodeMap,
        zones: Zones,
        stream: InstructionStream,
        sites: Iterable[tuple[Site, NativeBody]],
        align: int = 1,
    ) -> Region:
        """Find the padding of `stream` that may give way.

        With an `align` above 1, the section's own, every function keeps its distance to that
        alignment, and padding may come where none was: arrays of functions keep their stride.
        """
        paddings = _before_pages(code_map, stream, _paddings(code_map, zones, stream))
        paddings = _before_arrays(code_map, zones, stream, paddings)
        paddings = _before_aligned(code_map, zones, stream, paddings)
        if align > 1:
            paddings = [replace(p, align=max(p.align, align)) for p in paddings]
            paddings += _missing_paddings(code_map, zones, stream, paddings, align)
        return cls(stream, tuple(sites), tuple(paddings))

    def with_sites(self, sites: Iterable[tuple[Site, NativeBody]]) -> Region:
        """The same region, with those of `sites` that lie in it."""
        low, high = self.stream.va, self.stream.end_va
        return replace(self, sites=tuple(pair for pair in sites if low <= pair[0].va < high))

    def items(self, widened: dict[int, Change]) -> list[Change | FillerRun]:
        """Everything that changes its length, in address order.

        `widened` are branches that have become near, by address.
        """
        grown = [
            Change(site.va, len(site.code), len(body.code))
            for site, body in self.sites
            if len(body.code) != len(site.code)
        ]
        items: list[Change | FillerRun] = [*grown, *self.paddings, *widened.values()]
        return sorted(items, key=lambda item: (item.va, isinstance(item, Change)))


def _paddings(code_map: CodeMap, zones: Zones, stream: InstructionStream) -> list[FillerRun]:
    """Runs of nop or int3 in front of a function or the end, to which nothing leads."""
    starts = stream.starts.astype(np.int64)
    filler = (stream.shapes == Shape.NOP) | (stream.shapes == Shape.INT3)
    filler[filler] = ~among(starts[filler], code_map.targets)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], filler.view(np.int8), [0]))))
    first, following = edges[::2], np.append(starts, stream.end_va)[edges[1::2]]
    wanted = among(following, code_map.function_starts) | (following == stream.end_va)
    first, following = first[wanted], following[wanted]
    keep = np.where(_are_barriers(stream, first), BARRIER_LEN, 0)
    return [
        FillerRun(va, end_va - va, alignment(va, end_va), kept)
        for va, end_va, kept in zip(
            starts[first].tolist(), following.tolist(), keep.tolist(), strict=True
        )
        if zones.over(va, end_va) is None
    ]


def _before_pages(
    code_map: CodeMap, stream: InstructionStream, paddings: list[FillerRun]
) -> list[FillerRun]:
    """The paddings; what is in front of a page that is treated as a whole keeps it aligned."""
    aligned = {va: PAGE for va, _ in code_map.pages if va % PAGE == 0}
    return _keeping(aligned, stream, paddings)


def _before_arrays(
    code_map: CodeMap, zones: Zones, stream: InstructionStream, paddings: list[FillerRun]
) -> list[FillerRun]:
    """The paddings; what is in front of functions at fixed distances keeps their alignments.

    Such functions inside of another zone stay where they are in it.
    """
    aligned = {
        array.start_va: array.align
        for array in code_map.arrays
        if not any(zone.start_va < array.start_va < zone.end_va for zone in zones)
    }
    return _keeping(aligned, stream, paddings)


def _before_aligned(
    code_map: CodeMap, zones: Zones, stream: InstructionStream, paddings: list[FillerRun]
) -> list[FillerRun]:
    """The paddings; what is in front of code that was aligned on purpose keeps its alignment."""
    aligned = aligned_on_purpose(code_map, stream)
    known = {padding.va + padding.old_len for padding in paddings}
    last = {array.last_va for array in code_map.arrays}
    wanted = {
        va: unit
        for va, unit in aligned.items()
        if va in known or not (va in last or _splits(zones, va))
    }
    return _keeping(wanted, stream, paddings)


def _keeping(
    aligned: dict[int, int], stream: InstructionStream, paddings: list[FillerRun]
) -> list[FillerRun]:
    """The paddings; what follows one may have an alignment in `aligned`, by address.

    Where no filler is in front of such an address, one of no bytes is added.
    """
    inside = {va: align for va, align in aligned.items() if stream.va < va < stream.end_va}
    found = []
    for padding in paddings:
        align = inside.pop(padding.va + padding.old_len, 1)
        found.append(padding if align <= padding.align else replace(padding, align=align))
    added = [FillerRun(_before_fill(stream, va), 0, align) for va, align in inside.items()]
    return sorted([*found, *added], key=lambda padding: padding.va)


def _before_fill(stream: InstructionStream, va: int) -> int:
    """Where padding in front of the instruction at `va` begins: the linker's filler stays last.

    Linkers fill from the start of a gap, assemblers in front of that.
    """
    index = stream.index_of(va)
    while index > 0 and stream.shapes[index - 1] == Shape.LINK_FILL:
        index -= 1
    return va if index < 0 else int(stream.starts[index])


def _missing_paddings(
    code_map: CodeMap,
    zones: Zones,
    stream: InstructionStream,
    paddings: list[FillerRun],
    align: int,
) -> list[FillerRun]:
    """An empty padding in front of each function that has none."""
    padded = {padding.va + padding.old_len for padding in paddings}
    functions = code_map.function_starts
    inside = functions[(functions > stream.va) & (functions < stream.end_va)]
    last = {array.last_va for array in code_map.arrays}
    return [
        FillerRun(front, 0, align)
        for va, front in ((va, _before_fill(stream, va)) for va in inside.tolist())
        if va not in padded
        and front not in padded
        and va not in last
        and stream.index_of(va) >= 0
        and not _splits(zones, va)
    ]


def _splits(zones: Zones, va: int) -> bool:
    zone = zones.over(va, va + 1)
    return zone is not None and zone.start_va < va


def _are_barriers(stream: InstructionStream, index: np.ndarray) -> np.ndarray:
    """Which instructions are an int3 right after a ret or jmp."""
    before = stream.flows[np.maximum(index - 1, 0)]
    follows = (index > 0) & ((before == Flow.STOP) | (before == Flow.JUMP))
    barriers: np.ndarray = follows & (stream.shapes[index] == Shape.INT3)
    return barriers

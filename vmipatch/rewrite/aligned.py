# SPDX-License-Identifier: MIT
"""Which code was aligned on purpose to more than functions are?

Filler of a function's alignment or more in front of a function or label was not needed to reach
that: a cache line or a page was asked for. A label that begins a page and is not a function
marks one. What is kept byte for byte (vmipatch.image.kept) keeps its alignment, too.
"""

from __future__ import annotations

import numpy as np

from vmipatch.image.symbols import SHN_ABS, STT_FUNC, STT_NOTYPE
from vmipatch.isa.decode import InstructionStream, Shape
from vmipatch.scan.code import CodeMap

FUNCTION_ALIGN = 16
"""Alignment of functions, as compilers choose it, in bytes."""
PAGE = 0x1000
LARGE_PAGE = 0x200000
"""The largest alignment that counts."""


def aligned_on_purpose(code_map: CodeMap, stream: InstructionStream) -> dict[int, int]:
    """Address and alignment of each such function or label after the first byte of `stream`."""
    table = code_map.image.symbols
    entries = table.entries
    kinds, values = entries["info"] & 15, entries["value"]
    inside = (entries["shndx"] < SHN_ABS) & ~table.is_local_label
    inside &= (values > stream.va) & (values < stream.end_va)
    labels = set(values[inside & (kinds == STT_NOTYPE)].tolist())
    found = {va: PAGE for va in labels if va % PAGE == 0}
    starts = stream.starts.astype(np.int64)
    filler = (stream.shapes == Shape.NOP) | (stream.shapes == Shape.INT3)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], filler.view(np.int8), [0]))))
    ends = np.append(starts, stream.end_va)[edges[1::2]]
    named = labels.union(values[inside & (kinds == STT_FUNC)].tolist())
    for start_va, end_va in zip(starts[edges[::2]].tolist(), ends.tolist(), strict=True):
        if end_va in named:
            found[end_va] = max(alignment(start_va, end_va), found.get(end_va, 1))
    for va, unit in code_map.kept.aligned.items():
        found[va] = max(unit, found.get(va, 1))
    return {va: unit for va, unit in found.items() if unit > 1 and stream.index_of(va) >= 0}


def alignment(start_va: int, end_va: int) -> int:
    """The alignment that filler in [start, end) was made for, 1 if it is not more than usual."""
    if end_va - start_va < FUNCTION_ALIGN:
        return 1
    unit = min(1 << (end_va - start_va).bit_length(), LARGE_PAGE)
    while end_va % unit:
        unit //= 2
    return unit

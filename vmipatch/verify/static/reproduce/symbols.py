# SPDX-License-Identifier: MIT
"""The symbol table with everything where it is now, and the labels of what was added."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vmipatch.image.physical import virtual_distances
from vmipatch.image.symbols import SHN_ABS, SYMBOL
from vmipatch.image.types import Section
from vmipatch.verify.static.added import NEW_CODE
from vmipatch.verify.static.comparison import Comparison
from vmipatch.verify.static.reproduce.added import AddedPart
from vmipatch.verify.static.reproduce.decisions import Change
from vmipatch.verify.static.reproduce.layout import Layout
from vmipatch.verify.static.side import I64
from vmipatch.verify.static.sites import LAID_OUT
from vmipatch.verify.static.symbols import GLOBAL_NOTYPE, NEW_START


def symbol_table(
    comparison: Comparison, new: Layout, changes: Sequence[Change], added: Sequence[AddedPart]
) -> tuple[bytes, bytes]:
    """The entries and the names. Of `added` the first has the number of its section that follows
    the original's.
    """
    laid_out = [s for s in comparison.inputs.original.sections if s.name in LAID_OUT]
    entries = moved_symbols(comparison, new, changes, laid_out)
    names = bytearray(comparison.inputs.original.symbols.strings)
    extra = []
    homes = {
        part.name: len(comparison.inputs.original.sections) + i for i, part in enumerate(added)
    }
    labels = [
        (name, va, homes[part.name])
        for part in added
        for name, va in ((part.symbol, part.va), (f"{part.symbol}_end", part.end_va))
    ]
    start_va = comparison.runtime_va
    if start_va is not None:
        labels.append((NEW_START, start_va, homes[NEW_CODE]))
    for name, va, home in labels:
        extra.append((len(names), va, 0, GLOBAL_NOTYPE, 0, home))
        names += name.encode() + b"\0"
    return entries.tobytes() + np.array(extra, SYMBOL).tobytes(), bytes(names)


def moved_symbols(
    comparison: Comparison, new: Layout, changes: Sequence[Change], laid_out: Sequence[Section]
) -> np.ndarray:
    """The original's entries: addresses are moved, functions reach to where their ends went.

    `laid_out` are the sections whose code may change its length.
    """
    table = comparison.inputs.original.symbols
    entries = table.entries.copy()
    distance = virtual_distances(comparison.inputs.original)
    value = entries["value"].astype(np.int64) + distance
    loads = list(comparison.inputs.original.loads)
    low, high = min(s.va for s in loads), max(s.va + s.mem_len for s in loads)
    shndx = entries["shndx"]
    is_address = (shndx > 0) & (shndx < SHN_ABS)
    is_address |= (shndx == SHN_ABS) & (value >= low) & (value <= high) & ~table.is_number
    end = value + entries["size"]
    now = new.moves(value)
    sized = is_address & np.isin(shndx, [s.index for s in laid_out]) & (entries["size"] > 0)
    size = _ends(new, laid_out, end) - _put_in(changes, end) - now
    entries["value"][is_address] = (now - distance)[is_address].astype(np.uint32)
    entries["size"][sized] = size[sized].astype(np.uint32)
    return entries


def _ends(new: Layout, laid_out: Sequence[Section], vas: I64) -> I64:
    """Where what ends at `vas` ends now; at the end of a section before the room after it."""
    result = new.moves(vas)
    for section in laid_out:
        head = new.heads[section.index]
        result[vas == section.end_va] = int(head["va"]) + int(head["size"])
    return result


def _put_in(changes: Sequence[Change], vas: I64) -> I64:
    """Bytes of filler that were put in at each address where none was."""
    result = np.zeros(len(vas), np.int64)
    for change in changes:
        if not change.old_len:
            result[vas == change.va] = change.new_len
    return result

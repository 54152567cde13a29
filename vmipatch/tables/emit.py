# SPDX-License-Identifier: MIT
"""Which words does a table hold once the code it points at has moved."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vmipatch.tables.layout import origin
from vmipatch.tables.table import U32, Move, Order, Table, WordForm, stay

OPCODE_LEN = np.uint32(1)
"""Bytes of a near jmp before its displacement."""


@dataclass(frozen=True, slots=True, eq=False)
class Emission:
    """Words to write, at the places where the table is after the move."""

    va: U32
    """New address of each word; ascending within one table."""
    value: U32
    reordered: bool = False
    """The entries were sorted again, because their functions changed places."""
    misordered: npt.NDArray[np.int64] | None = None
    """For tables whose entries cannot change places (Order.NAMED): indices of entries that now
    point below the one before them. A search by address misses those, names stay right."""

    @property
    def in_order(self) -> bool:
        """Whether the table still has the order the kernel expects."""
        return self.misordered is None or not len(self.misordered)


def emit(table: Table, move: Move, move_place: Move = stay) -> Emission:
    """The address words of `table` after a move.

    `move` maps what the words point at, code and data, ends of sections included; `move_place`
    maps the table's own words (pass the same map where later sections shift). What is added to an
    address, and words that are none, are kept; of a jmp that is copied, it follows both places. A
    sorted table is sorted again if the new addresses ask for it: then its other words are emitted
    too.
    """
    words = table.words.copy()
    words["va"] = move_place(np.ascontiguousarray(table.words["va"]))
    copied = words["form"] == WordForm.COPIED_BRANCH
    copy_va = np.ascontiguousarray(table.words["va"][copied] - table.words["bias"][copied])
    words["bias"][copied] = words["va"][copied] - (move(copy_va - OPCODE_LEN) + OPCODE_LEN)
    target_va = np.ascontiguousarray(table.words["target_va"])
    words["target_va"] = np.where(words["form"] == WordForm.VALUE, target_va, move(target_va))
    base_va = table.base_va
    if (words["form"] == WordForm.BASE_RELATIVE).any():
        base_va = int(move(np.array([base_va], np.uint32))[0])
    if table.order is Order.SORTED and not _ascends(_keys(table, words)):
        return _sorted_again(table, words, base_va)
    misordered = None
    if table.order is Order.NAMED:
        misordered = np.flatnonzero(np.diff(words["target_va"].astype(np.int64)) < 0) + 1
    return Emission(
        np.ascontiguousarray(words["va"]), _values(words, base_va), misordered=misordered
    )


def _values(words: np.ndarray, base_va: int) -> U32:
    """The values to store: address minus origin, plus bias."""
    value: U32 = words["target_va"] - origin(words, base_va) + words["bias"]
    return value.astype(np.uint32)


def _keys(table: Table, words: np.ndarray) -> U32:
    """The keys of a sorted table: the first address of each entry, 0 where there is no address."""
    entry, first = np.unique(_entry_of(table), return_index=True)
    keys = np.zeros(len(table), np.uint32)
    keys[entry] = words["target_va"][first]
    return keys


def _entry_of(table: Table) -> npt.NDArray[np.int64]:
    """The index of the entry that each word belongs to."""
    inside = table.words["va"].astype(np.int64) - table.start_va
    return inside // table.entries.dtype.itemsize


def _ascends(keys: U32) -> bool:
    return bool((keys[1:] >= keys[:-1]).all())


def _sorted_again(table: Table, words: np.ndarray, base_va: int) -> Emission:
    """All words of all entries, entries in the order of their new keys.

    A table moves as a whole, so the first word tells by how much; entries of sorted tables
    consist of words only, some of which may hold no address.
    """
    entry_len = table.entries.dtype.itemsize
    order = np.argsort(_keys(table, words), kind="stable")
    columns = np.frombuffer(table.entries.tobytes(), "<u4").reshape(-1, entry_len // 4)[order]
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    entry = _entry_of(table)
    moved = words.copy()
    start_va = int(words["va"][0]) - int(table.words["va"][0]) + table.start_va
    inside = table.words["va"].astype(np.int64) - table.start_va - entry * entry_len
    moved["va"] = start_va + rank[entry] * entry_len + inside
    va = (start_va + 4 * np.arange(columns.size, dtype=np.int64)).astype(np.uint32)
    value = columns.reshape(-1).astype(np.uint32)
    value[(moved["va"].astype(np.int64) - start_va) // 4] = _values(moved, base_va)
    return Emission(va, value, reordered=True)


def store(data: bytearray, offset: npt.NDArray[np.int64], value: U32) -> None:
    """Write each little-endian word at its byte offset of `data`, aligned or not."""
    octets = np.frombuffer(data, dtype=np.uint8)
    index = offset[:, None] + np.arange(4)
    octets[index] = value.astype("<u4").view(np.uint8).reshape(-1, 4)

# SPDX-License-Identifier: MIT
"""Which words does a table hold once the code it points at has moved."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vmipatch.tables.layout import origin
from vmipatch.tables.table import U32, Form, Move, Order, Table, stay


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
    maps the table's own words (pass the same map where later sections shift). Low flag bits are
    kept. A sorted table is sorted again if the new addresses ask for it: then its other words
    are emitted too.
    """
    words = table.words.copy()
    words["va"] = move_place(np.ascontiguousarray(table.words["va"]))
    words["target_va"] = move(np.ascontiguousarray(table.words["target_va"]))
    base_va = table.base_va
    if (words["form"] == Form.BASE_RELATIVE).any():
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
    """What to store: address minus origin, flags in the low bits."""
    value: U32 = (words["target_va"] - origin(words, base_va)) | words["flags"]
    return value.astype(np.uint32)


def _keys(table: Table, words: np.ndarray) -> U32:
    """What a sorted table is sorted by: the first address of each entry."""
    return np.ascontiguousarray(words["target_va"].reshape(len(table.entries), -1)[:, 0])


def _ascends(keys: U32) -> bool:
    return bool((keys[1:] >= keys[:-1]).all())


def _sorted_again(table: Table, words: np.ndarray, base_va: int) -> Emission:
    """All words of all entries, entries in the order of their new keys.

    The words at the old places of the table tell where each column moves to: a table moves as
    a whole, and entries of sorted tables consist of words only.
    """
    rank = np.argsort(_keys(table, words), kind="stable")
    entry_words = table.entries.dtype.itemsize // 4
    columns = np.frombuffer(table.entries.tobytes(), "<u4").reshape(-1, entry_words)[rank]
    fields = len(words) // len(rank)
    permuted = words.reshape(-1, fields)[rank].reshape(-1)
    permuted["va"] = words["va"]
    shift = int(words["va"][0]) - int(table.words["va"][0])
    va = (table.start_va + shift + 4 * np.arange(columns.size)).astype(np.uint32)
    value = columns.reshape(-1).astype(np.uint32)
    value[(permuted["va"] - va[0]) // 4] = _values(permuted, base_va)
    return Emission(va, value, reordered=True)


def store(data: bytearray, offset: npt.NDArray[np.int64], value: U32) -> None:
    """Write each little-endian word at its byte offset of `data`, aligned or not."""
    octets = np.frombuffer(data, dtype=np.uint8)
    index = offset[:, None] + np.arange(4)
    octets[index] = value.astype("<u4").view(np.uint8).reshape(-1, 4)

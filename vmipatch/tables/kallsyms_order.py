# SPDX-License-Identifier: MIT
"""How kallsyms follows functions that changed places.

The addresses must ascend, and three other parts count on their order (scripts/kallsyms.c):
`kallsyms_names` has one record for each address, its length and tokens of a table common to all,
so that records can be exchanged as they are; `kallsyms_markers` has the offset of every 256th;
`kallsyms_seqs_of_names` lists, by name, the rank of the address in 3 bytes, highest first. It may
stand before the tokens (up to 6.3) or at the end of all parts. Only the order among symbols of one
name, which is by address, is left as it was.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vmipatch.errors import MalformedTable
from vmipatch.tables.emit import Emission, emit
from vmipatch.tables.kallsyms import MARKER_STEP, name_offsets
from vmipatch.tables.source import ImageSource
from vmipatch.tables.table import U32, Form, Move, Table, stay

SEQ_LEN = 3
WORD_LEN = 4


@dataclass(frozen=True, slots=True)
class _Part:
    """One part of kallsyms: its address, and its bytes up to the next part."""

    va: int
    data: bytes


def emit_in_order(
    image: ImageSource, table: Table, move: Move, move_place: Move = stay
) -> Emission:
    """What `emit` gives, but with addresses and names sorted again if they need it.

    The words then cover names, markers and sequence numbers too. Raises MalformedTable if a
    part that must follow is not where the symbols say.
    """
    plain = emit(table, move, move_place)
    if plain.in_order:
        return plain
    rank = np.argsort(move(np.ascontiguousarray(table.words["target_va"])), kind="stable")
    names = _part(image, "kallsyms_names", "kallsyms_markers")
    offsets = name_offsets(names.data, len(table))
    if offsets is None:
        raise _missing(image, "kallsyms_names")
    records = [names.data[offsets[i] : offsets[i + 1]] for i in rank.tolist()]
    new_offsets = np.concatenate([[0], np.cumsum([len(record) for record in records])])
    markers = new_offsets[:-1:MARKER_STEP].astype("<u4").tobytes()
    chunks = [
        _words(move_place, names.va, b"".join(records).ljust(len(names.data), b"\0")),
        _words(move_place, _address(image, "kallsyms_markers"), markers),
    ]
    seqs_va = image.symbols.address("kallsyms_seqs_of_names")
    if seqs_va is not None:
        # What the last word holds besides stays: the parts are aligned to words.
        seqs = image.read(seqs_va, -(-SEQ_LEN * len(table) // WORD_LEN) * WORD_LEN)
        chunks.append(_words(move_place, seqs_va, _ranked(image, seqs, rank)))
    va, value = (np.concatenate(column) for column in zip(*chunks, strict=True))
    return Emission(
        np.concatenate([plain.va, va]),
        np.concatenate([_by_rank(table, plain, rank), value]),
        reordered=True,
    )


def _by_rank(table: Table, plain: Emission, rank: npt.NDArray[np.int64]) -> U32:
    """The words of `plain` in the order of `rank`: distances from where they stand then."""
    apart = np.zeros(len(rank), np.uint32)
    if (table.words["form"] == Form.RELATIVE).any():
        apart = (plain.va[rank] - plain.va).astype(np.uint32)
    result: U32 = plain.value[rank] + apart
    return result


def _ranked(image: ImageSource, data: bytes, rank: npt.NDArray[np.int64]) -> bytes:
    """The sequence numbers `data` after entry `rank[i]` became entry i."""
    count = len(rank)
    if len(data) < count * SEQ_LEN:
        raise _missing(image, "kallsyms_seqs_of_names")
    octets = np.frombuffer(data, np.uint8)[: count * SEQ_LEN].reshape(-1, SEQ_LEN)
    seq = octets.astype(np.int64) @ [1 << 16, 1 << 8, 1]
    if not np.array_equal(np.sort(seq), np.arange(count)):
        raise _missing(image, "kallsyms_seqs_of_names")
    new_rank = np.empty(count, np.int64)
    new_rank[rank] = np.arange(count)
    moved = new_rank[seq].astype(">u4").view(np.uint8).reshape(-1, WORD_LEN)[:, 1:]
    return bytes(moved.tobytes()) + data[count * SEQ_LEN :]


def _words(move_place: Move, va: int, data: bytes) -> tuple[U32, U32]:
    """Places and values of the words of `data`."""
    places = (va + WORD_LEN * np.arange(len(data) // WORD_LEN)).astype(np.uint32)
    return move_place(places), np.frombuffer(data, "<u4").astype(np.uint32)


def _part(image: ImageSource, name: str, following: str) -> _Part:
    va, end_va = _address(image, name), _address(image, following)
    if end_va <= va or (end_va - va) % WORD_LEN:
        raise _missing(image, name)
    return _Part(va, image.read(va, end_va - va))


def _address(image: ImageSource, name: str) -> int:
    va = image.symbols.address(name)
    if va is None:
        raise _missing(image, name)
    return va


def _missing(image: ImageSource, name: str) -> MalformedTable:
    return MalformedTable(
        f"kallsyms cannot be sorted again: {name} is missing or damaged",
        file=image.name,
        place=".symtab",
        hint="keep functions in their order, or accept wrong names in backtraces",
    )

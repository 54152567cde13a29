# SPDX-License-Identifier: MIT
"""How are the names of kallsyms packed? In tokens: the 256 strings that each byte stands for.

scripts/kallsyms.c writes the tokens as strings, each with its zero, then their offsets as
halfwords. Tokens that a small kernel has no use for are empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from vmipatch.tables.kallsyms import MAX_PADDING

TOKENS = 256
TOKEN_INDEX_LEN = 2 * TOKENS
LONGEST_TOKEN = 512
WORD_LEN = 4
TWO_BYTES = 0x80
"""The top bit of a name's length: it has two bytes."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one table, and where it and its index begin: offsets into a section."""

    off: int
    index_off: int
    strings: tuple[bytes, ...] = field(repr=False)


def find_tokens(data: bytes) -> Iterator[Tokens]:
    """Every table of tokens in the bytes of a section."""
    for index_off in _indexes(data):
        found = _before(data, index_off)
        if found is not None:
            yield found


def unpacked(names: bytes, extents: Iterable[tuple[int, int]], tokens: Tokens) -> Iterator[str]:
    """The name in each range of `names`, which begins with its length, unpacked."""
    for start, end in extents:
        packed = names[start + (2 if names[start] & TWO_BYTES else 1) : end]
        yield b"".join([tokens.strings[byte] for byte in packed]).decode("latin-1")


def _indexes(data: bytes) -> Iterator[int]:
    """Offsets at which 256 rising halfwords begin with 0: what an index of tokens looks like."""
    halves = np.frombuffer(data[: len(data) // 2 * 2], dtype="<u2").astype(np.int32)
    if len(halves) < TOKENS:
        return
    rises = np.diff(halves)
    good = (rises >= 1) & (rises <= LONGEST_TOKEN)
    total = np.concatenate(([0], np.cumsum(good)))
    runs = total[TOKENS - 1 :] - total[: len(total) - TOKENS + 1] == TOKENS - 1
    starts = np.flatnonzero(runs & (halves[: len(runs)] == 0)) * 2
    yield from starts[starts % WORD_LEN == 0].tolist()


def _before(data: bytes, index_off: int) -> Tokens | None:
    """The tokens that an index belongs to; None if there are none, or all are empty."""
    index = np.frombuffer(data, "<u2", TOKENS, index_off).tolist()
    if index[-1] == TOKENS - 1:
        return None
    latest = (index_off - index[-1] - 1) // WORD_LEN * WORD_LEN
    for start in range(latest, max(latest - LONGEST_TOKEN, -1), -WORD_LEN):
        tokens = [data[start + a : start + b] for a, b in pairwise(index)]
        last, zero, filler = data[start + index[-1] : index_off].partition(b"\0")
        if not zero or filler.strip(b"\0") or len(filler) >= MAX_PADDING:
            continue
        if all(token.find(b"\0") == len(token) - 1 for token in tokens):
            return Tokens(start, index_off, (*(token[:-1] for token in tokens), last))
    return None

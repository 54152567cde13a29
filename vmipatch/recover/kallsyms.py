# SPDX-License-Identifier: MIT
"""Which functions does a kernel without .symtab have? Its own kallsyms tell, once they are found.

scripts/kallsyms.c writes the parts one behind the other: addresses (4.6 and later: offsets and
their base), count, compressed names, markers, from 6.2 (and stable 6.1) sequence numbers, tokens,
index of tokens. Nothing says where they are; each candidate is validated to its last byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from vmipatch.image.elf import ElfImage
from vmipatch.image.types import Section
from vmipatch.tables.kallsyms import MARKER_STEP, MAX_PADDING, name_offsets

TOKENS = 256
LONGEST_TOKEN = 512
FEWEST, MOST = 4, 1 << 20
"""How many symbols a kernel may have."""
WORD_LEN = 4
SEQ_LEN = 3


@dataclass(frozen=True, slots=True)
class KernelSymbol:
    """One line of /proc/kallsyms: `kind` is the letter that nm gives it."""

    va: int
    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Kallsyms:
    """The kernel's own symbols, by address, and where their parts are stored."""

    symbols: tuple[KernelSymbol, ...]
    parts: tuple[tuple[str, int], ...]
    """Name and address of each part, as the kernel's sources name them."""


def find_kallsyms(image: ElfImage) -> Kallsyms | None:
    """The kernel's own symbol table; None if there is none that is complete and valid."""
    for section in image.allocated_sections:
        if not section.has_bytes or section.is_exec:
            continue
        data = image.section_bytes(section)
        for index_off in _token_indexes(data):
            tokens = _tokens(data, index_off)
            if tokens is None:
                continue
            for found in _with_tokens(image, section, data, index_off, *tokens):
                return found
    return None


def _token_indexes(data: bytes) -> Iterator[int]:
    """Offsets at which 256 rising halfwords begin with 0: what an index of tokens looks like."""
    halves = np.frombuffer(data[: len(data) // 2 * 2], dtype="<u2").astype(np.int32)
    if len(halves) < TOKENS:
        return
    rises = np.diff(halves)
    good = (rises >= 2) & (rises <= LONGEST_TOKEN)
    total = np.concatenate(([0], np.cumsum(good)))
    runs = total[TOKENS - 1 :] - total[: len(total) - TOKENS + 1] == TOKENS - 1
    starts = np.flatnonzero(runs & (halves[: len(runs)] == 0)) * 2
    yield from starts[starts % WORD_LEN == 0].tolist()


def _tokens(data: bytes, index_off: int) -> tuple[int, list[bytes]] | None:
    """Offset of the tokens that an index belongs to, and the tokens; None if they do not fit."""
    index = np.frombuffer(data, "<u2", TOKENS, index_off).tolist()
    for start in range(index_off - index[-1] - 2, index_off - index[-1] - LONGEST_TOKEN, -1):
        if start < 0:
            return None
        tokens = [data[start + a : start + b] for a, b in pairwise(index)]
        last, _, filler = data[start + index[-1] : index_off].partition(b"\0")
        if start % WORD_LEN or not last or filler.strip(b"\0") or len(filler) >= MAX_PADDING:
            continue
        if all(token.find(b"\0") == len(token) - 1 for token in tokens):
            return start, [*(token[:-1] for token in tokens), last]
    return None


def _with_tokens(
    image: ElfImage,
    section: Section,
    data: bytes,
    index_off: int,
    tokens_off: int,
    tokens: list[bytes],
) -> Iterator[Kallsyms]:
    """Every complete kallsyms in front of the tokens."""
    words = np.frombuffer(data[: tokens_off // WORD_LEN * WORD_LEN], dtype="<u4")
    low, high = _extent(image)
    places = np.arange(len(words), dtype=np.int64)
    plausible = (words >= FEWEST) & (words <= MOST) & (places >= words)
    plausible[1:] &= (words[:-1] >= low) & (words[:-1] <= high)
    for at in np.flatnonzero(plausible).tolist():
        count = int(words[at])
        addresses = _addresses(words, at, count, low, high)
        if addresses is None:
            continue
        names_off = (at + 1) * WORD_LEN
        names = data[names_off:tokens_off]
        offsets = name_offsets(names, count)
        if offsets is None:
            continue
        markers_off = _markers(data, names_off, tokens_off, offsets)
        if markers_off is None:
            continue
        symbols = _symbols(names, offsets, addresses[1], tokens)
        if symbols is None:
            continue
        parts = {
            "kallsyms_num_syms": at * WORD_LEN,
            "kallsyms_names": names_off,
            "kallsyms_markers": markers_off,
            "kallsyms_token_table": tokens_off,
            "kallsyms_token_index": index_off,
        }
        if addresses[0]:
            parts["kallsyms_offsets"] = (at - 1 - count) * WORD_LEN
            parts["kallsyms_relative_base"] = (at - 1) * WORD_LEN
        else:
            parts["kallsyms_addresses"] = (at - count) * WORD_LEN
        seqs_off = markers_off + -(-count // MARKER_STEP) * WORD_LEN
        behind = tokens_off - seqs_off
        if count * SEQ_LEN <= behind < count * SEQ_LEN + MAX_PADDING:
            parts["kallsyms_seqs_of_names"] = seqs_off
        elif not 0 <= behind < MAX_PADDING:
            continue
        yield Kallsyms(symbols, tuple((name, section.va + off) for name, off in parts.items()))


def _extent(image: ElfImage) -> tuple[int, int]:
    sections = [s for s in image.allocated_sections if s.size]
    return min(s.va for s in sections), max(s.end_va for s in sections)


def _addresses(
    words: np.ndarray, at: int, count: int, low: int, high: int
) -> tuple[bool, np.ndarray] | None:
    """Whether `count` addresses in front of the count at `at` are offsets, and the addresses."""
    for relative in (True, False):
        first = at - count - relative
        if first < 0:
            continue
        values = words[first : first + count].astype(np.int64)
        if relative:
            values = values + int(words[at - 1])
        if values[0] >= low and values[-1] <= high and (np.diff(values) >= 0).all():
            return relative, values
    return None


def _markers(data: bytes, names_off: int, end_off: int, offsets: list[int]) -> int | None:
    """Offset of the markers behind the names; None if they are not there."""
    expected = np.array(offsets[:-1:MARKER_STEP], "<u4").tobytes()
    end = names_off + offsets[-1]
    start = -(-end // WORD_LEN) * WORD_LEN
    for at in range(start, min(end + MAX_PADDING, end_off), WORD_LEN):
        if data[at : at + len(expected)] == expected and not any(data[end:at]):
            return at
    return None


def _symbols(
    names: bytes, offsets: list[int], addresses: np.ndarray, tokens: list[bytes]
) -> tuple[KernelSymbol, ...] | None:
    """The symbols with their names unpacked; None if one is no line of nm."""
    result = []
    for (start, end), va in zip(pairwise(offsets), addresses.tolist(), strict=True):
        packed = names[start + (2 if names[start] & 0x80 else 1) : end]
        text = b"".join([tokens[byte] for byte in packed]).decode("latin-1")
        if len(text) < 2 or not text[0].isalpha() or not text.isprintable():
            return None
        result.append(KernelSymbol(va, text[0], text[1:]))
    return tuple(result)

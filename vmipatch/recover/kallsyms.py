# SPDX-License-Identifier: MIT
"""Which functions does a kernel without .symtab have? Its own kallsyms tell, once they are found.

scripts/kallsyms.c writes the parts one after the other, each aligned to a word:

- up to 4.5: addresses, count, compressed names, markers, tokens, index of tokens;
- from 4.6: offsets and their base instead of addresses; from 6.2 (and stable 6.1) sequence
  numbers after the markers;
- from 6.4: count, names, markers, tokens, index, and then offsets, base and sequence numbers;
- in 7.2: the same, but words that are distances from themselves, and no base.

Nothing says where they are; each candidate is validated to its last byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from vmipatch.errors import NotSupported
from vmipatch.image.elf import ElfImage
from vmipatch.limits import Limit
from vmipatch.recover.kallsyms_names import TOKEN_INDEX_LEN, Tokens, find_tokens, unpacked
from vmipatch.tables.kallsyms import MARKER_STEP, MAX_PADDING, name_offsets

FEWEST, MOST = 4, 1 << 20
"""How many symbols a kernel may have."""
LONGEST_NAME = 516
"""Bytes of a packed name, at most: no kernel has had a KSYM_NAME_LEN of more than 512."""
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
    start_va: int
    end_va: int
    """The bytes of all parts."""


def find_kallsyms(image: ElfImage) -> Kallsyms | None:
    """The kernel's own symbol table; None if missing.

    Raises InputNotUnderstood if the tokens of one are there, and the rest is damaged or of a layout
    that is not known.
    """
    seen_va = None
    for section in image.allocated_sections:
        if not section.has_bytes or section.is_exec:
            continue
        data = image.section_bytes(section)
        for tokens in find_tokens(data):
            search = _Search(image, section.va, data, tokens)
            found = next(search.candidates(), None)
            if found is not None:
                return found
            seen_va = section.va + tokens.off
    if seen_va is not None:
        raise NotSupported(
            Limit.KALLSYMS,
            "the kernel's own symbols (kallsyms) have a layout that vmipatch does not know",
            file=image.name,
            place=f"{seen_va:#x}",
        )
    return None


@dataclass(frozen=True, slots=True, eq=False)
class _Addresses:
    """The addresses of all symbols, the parts that hold them, and where these begin and end."""

    values: np.ndarray
    parts: dict[str, int]
    start_off: int
    end_off: int


class _Search:
    """Every complete kallsyms around one set of tokens."""

    def __init__(self, image: ElfImage, va: int, data: bytes, tokens: Tokens) -> None:
        self._va, self._data, self._tokens = va, data, tokens
        self._words = np.frombuffer(data[: len(data) // WORD_LEN * WORD_LEN], dtype="<u4")
        sections = [s for s in image.allocated_sections if s.size]
        self._low, self._high = min(s.va for s in sections), max(s.end_va for s in sections)

    def candidates(self) -> Iterator[Kallsyms]:
        """Complete ones: those whose addresses come first, then those where they come last."""
        for at in self._counts_after_addresses():
            yield from self._complete(at, self._addresses_before(at))
        for at in self._counts_before_names():
            yield from self._complete(at, self._addresses_after(int(self._words[at])))

    def _counts_after_addresses(self) -> list[int]:
        """Word indices at which a count might follow as many addresses, or their base."""
        words = self._words[: self._tokens.off // WORD_LEN]
        places = np.arange(len(words), dtype=np.int64)
        plausible = (words >= FEWEST) & (words <= MOST) & (places >= words)
        plausible[1:] &= (words[:-1] >= self._low) & (words[:-1] <= self._high)
        found: list[int] = np.flatnonzero(plausible).tolist()
        return found

    def _counts_before_names(self) -> list[int]:
        """Word indices at which the count might be, if the markers end where the tokens begin.

        The number of markers tells how many names there are, but for 255.
        """
        result: list[int] = []
        for end in range(self._tokens.off // WORD_LEN, 0, -1):
            start = self._rising_from_zero(end)
            if start is not None:
                last, rows = int(self._words[end - 1]), end - start
                low = max(MARKER_STEP * (rows - 1) + 1, FEWEST)
                stop = max(start - 1 - last // WORD_LEN, 0)
                first = max(stop - MARKER_STEP * LONGEST_NAME // WORD_LEN, 0)
                words = self._words[first:stop]
                fits = (words >= low) & (words <= MARKER_STEP * rows)
                result += (first + np.flatnonzero(fits)).tolist()
            if self._words[end - 1] or self._tokens.off - end * WORD_LEN >= MAX_PADDING:
                break
        return result

    def _rising_from_zero(self, end: int) -> int | None:
        """Index of the zero from which the words up to index `end` rise; None if they do not."""
        start = end - 1
        while start > 0 and self._words[start - 1] < self._words[start]:
            start -= 1
        return None if self._words[start] else start

    def _addresses_before(self, at: int) -> _Addresses | None:
        """The addresses in front of the count at word `at`."""
        count = int(self._words[at])
        for relative in (True, False):
            first = at - count - relative
            if first < 0:
                continue
            values = self._words[first : first + count].astype(np.int64)
            if relative:
                values = values + int(self._words[at - 1])
            if not self._are_addresses(values):
                continue
            parts = {"kallsyms_offsets" if relative else "kallsyms_addresses": first * WORD_LEN}
            if relative:
                parts["kallsyms_relative_base"] = (at - 1) * WORD_LEN
            end_off = self._tokens.index_off + TOKEN_INDEX_LEN
            return _Addresses(values, parts, first * WORD_LEN, end_off)
        return None

    def _addresses_after(self, count: int) -> _Addresses | None:
        """The addresses that follow the index of tokens, and sequence numbers to end them."""
        off = self._tokens.index_off + TOKEN_INDEX_LEN
        first = off // WORD_LEN
        for relative in (True, False):
            following = first + count + relative
            seqs_off = following * WORD_LEN
            if following > len(self._words) or not self._are_seqs(seqs_off, count):
                continue
            values = self._words[first : first + count].astype(np.int64)
            places = self._va + off + WORD_LEN * np.arange(count, dtype=np.int64)
            base = int(self._words[following - 1]) if relative else places
            values = (values + base) & 0xFFFFFFFF
            if not self._are_addresses(values):
                continue
            parts = {"kallsyms_offsets": off, "kallsyms_seqs_of_names": seqs_off}
            if relative:
                parts["kallsyms_relative_base"] = (following - 1) * WORD_LEN
            return _Addresses(values, parts, off, seqs_off + SEQ_LEN * count)
        return None

    def _are_addresses(self, values: np.ndarray) -> bool:
        inside = values[0] >= self._low and values[-1] <= self._high
        return bool(inside and (np.diff(values) >= 0).all())

    def _are_seqs(self, off: int, count: int) -> bool:
        """Whether each number below `count` stands there once, in 3 bytes, highest first."""
        octets = np.frombuffer(self._data[off : off + SEQ_LEN * count], np.uint8)
        if len(octets) < SEQ_LEN * count:
            return False
        seqs = octets.reshape(-1, SEQ_LEN).astype(np.int64) @ [1 << 16, 1 << 8, 1]
        return bool(np.array_equal(np.sort(seqs), np.arange(count)))

    def _complete(self, at: int, addresses: _Addresses | None) -> Iterator[Kallsyms]:
        """The kallsyms whose count is at word `at`, if names and markers fit."""
        count, names_off = int(self._words[at]), (at + 1) * WORD_LEN
        names = self._data[names_off : self._tokens.off]
        offsets = None if addresses is None else name_offsets(names, count)
        if addresses is None or offsets is None:
            return
        markers_off = self._markers(names_off, offsets)
        symbols = self._symbols(names, offsets, addresses.values)
        if markers_off is None or symbols is None:
            return
        parts = addresses.parts | {
            "kallsyms_num_syms": at * WORD_LEN,
            "kallsyms_names": names_off,
            "kallsyms_markers": markers_off,
            "kallsyms_token_table": self._tokens.off,
            "kallsyms_token_index": self._tokens.index_off,
        }
        seqs_off = markers_off + -(-count // MARKER_STEP) * WORD_LEN
        between = self._tokens.off - seqs_off
        has_seqs = count * SEQ_LEN <= between < count * SEQ_LEN + MAX_PADDING
        if has_seqs and "kallsyms_seqs_of_names" not in parts:
            parts["kallsyms_seqs_of_names"] = seqs_off
        elif not 0 <= between < MAX_PADDING:
            return
        yield Kallsyms(
            symbols,
            tuple((name, self._va + off) for name, off in parts.items()),
            self._va + min(addresses.start_off, at * WORD_LEN),
            self._va + addresses.end_off,
        )

    def _markers(self, names_off: int, offsets: list[int]) -> int | None:
        """Offset of the markers after the names; None if they are not there."""
        data = self._data
        expected = np.array(offsets[:-1:MARKER_STEP], "<u4").tobytes()
        end = names_off + offsets[-1]
        start = -(-end // WORD_LEN) * WORD_LEN
        for at in range(start, min(end + MAX_PADDING, self._tokens.off), WORD_LEN):
            if data[at : at + len(expected)] == expected and not any(data[end:at]):
                return at
        return None

    def _symbols(
        self, names: bytes, offsets: list[int], addresses: np.ndarray
    ) -> tuple[KernelSymbol, ...] | None:
        """The symbols with their names unpacked; None if one is not a line of nm."""
        result = []
        texts = unpacked(names, pairwise(offsets), self._tokens)
        for text, va in zip(texts, addresses.tolist(), strict=True):
            if len(text) < 2 or not text[0].isalpha() or not text.isprintable():
                return None
            result.append(KernelSymbol(va, text[0], text[1:]))
        return tuple(result)

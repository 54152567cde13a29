# SPDX-License-Identifier: MIT
"""Where do several sequences differ from the first of them? In gaps, between which all agree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

Range = tuple[int, int]
Opcode = tuple[str, int, int, int, int]


@dataclass(frozen=True, slots=True)
class Gap:
    """A range of the first sequence, and what each sequence has in its place."""

    start: int
    end: int
    alternatives: tuple[tuple[str, ...], ...]
    """Of the first sequence, then of the others."""

    @property
    def tokens(self) -> frozenset[str]:
        """All that was seen there."""
        return frozenset(token for each in self.alternatives for token in each)


def gaps(first: Sequence[str], others: Sequence[Sequence[str]]) -> tuple[Gap, ...]:
    """The gaps of `first`, in order; adjacent ones are one.

    What stands beside a gap belongs to it as far as it was seen in a gap: a loop that ends sooner
    in one run than in the other, or differs in one of its rounds, varies as a whole.
    """
    codes = [opcodes(first, other) for other in others]
    ranges = _merged((i1, i2) for each in codes for tag, i1, i2, _, _ in each if tag != "equal")
    while True:
        found = [_gap(first, others, codes, bounds) for bounds in ranges]
        seen = frozenset(token for gap in found for token in gap.tokens)
        wider = _merged(_absorbed(first, gap, seen) for gap in found)
        if wider == ranges:
            return tuple(found)
        ranges = wider


def opcodes(first: Sequence[str], other: Sequence[str]) -> list[Opcode]:
    """How `first` becomes `other`, as difflib tells it."""
    return list(SequenceMatcher(None, first, other, autojunk=False).get_opcodes())


def _merged(ranges: Iterator[Range]) -> list[Range]:
    """Those that overlap or touch as one."""
    merged: list[Range] = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def _gap(
    first: Sequence[str],
    others: Sequence[Sequence[str]],
    codes: Sequence[Sequence[Opcode]],
    bounds: Range,
) -> Gap:
    start, end = bounds
    alternatives = [tuple(first[start:end])]
    for other, each in zip(others, codes, strict=True):
        low, high = min(_places(each, start)), max(_places(each, end))
        alternatives.append(tuple(other[low:high]))
    return Gap(start, end, tuple(alternatives))


def _places(codes: Sequence[Opcode], at: int) -> Iterator[int]:
    """The places of another sequence that `at` is: before and after what is inserted there."""
    yield from () if codes else (0,)
    for tag, i1, i2, j1, j2 in codes:
        if tag == "equal" and i1 <= at <= i2:
            yield j1 + at - i1
        elif tag != "equal":
            yield from (j for i, j in ((i1, j1), (i2, j2)) if i == at)


def _absorbed(first: Sequence[str], gap: Gap, seen: frozenset[str]) -> Range:
    """The range of a gap with its neighbours that are among `seen`."""
    start, end = gap.start, gap.end
    while start > 0 and first[start - 1] in seen:
        start -= 1
    while end < len(first) and first[end] in seen:
        end += 1
    return start, end

# SPDX-License-Identifier: MIT
"""Which decisions of the rewriter does the output follow?

A decision is an address of the original, a length and a member of a closed list of forms, never
bytes. They are read off the paired instructions; a place where no form fits gets none, and then
the file that is made from them differs from the output there.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vmipatch.verify.static.bodies import RecordedBody
from vmipatch.verify.static.comparison import Comparison
from vmipatch.verify.static.gaps import PairedGap
from vmipatch.verify.static.matching import REDUNDANT_PREFIX, near_form
from vmipatch.verify.static.side import I64, Side

INT3 = b"\xcc"
NOPS = tuple(
    bytes.fromhex(code)
    for code in ("8db42600000000", "8db600000000", "8d742600", "8d7600", "89f6", "90")
)
"""The nops of gas for i386 (2.41, gas/config/tc-i386.c, i386_nops), the longest first."""


class PlaceForm(enum.Enum):
    """How a place of the original looks in the output."""

    PREFIXES = "redundant prefixes in front"
    NOPS_IN_FRONT = "nops in front"
    NOPS_AFTER = "nops after it"
    NEAR = "a near branch"
    FILLER = "filler of another length"


@dataclass(frozen=True, slots=True)
class Change:
    """`old_len` bytes of the original at `va` become `new_len` bytes of one form."""

    va: int
    old_len: int
    new_len: int
    form: PlaceForm

    @property
    def grown(self) -> int:
        """Bytes that are added; negative where filler gives way."""
        return self.new_len - self.old_len


def changes_of(comparison: Comparison) -> list[Change]:
    """Every change, in address order: what is put in at an address before what changes there."""
    found = [*_bodies(comparison), *_branches(comparison), *_fillers(comparison)]
    return sorted(found, key=lambda change: (change.va, change.old_len > 0))


def nops(length: int) -> bytes:
    """So many bytes of nops, in as few instructions as there are."""
    result = b""
    for nop in NOPS:
        count, length = divmod(length, len(nop))
        result += nop * count
    return result


def written(change: Change, code: bytes) -> bytes:
    """The new bytes of a change for the original's `code`; displacements are zeros."""
    added = max(change.grown, 0)
    match change.form:
        case PlaceForm.PREFIXES:
            return bytes((REDUNDANT_PREFIX,)) * added + code
        case PlaceForm.NOPS_IN_FRONT:
            return nops(added) + code
        case PlaceForm.NOPS_AFTER:
            return code + nops(added)
        case PlaceForm.NEAR:
            return near_form(code[:-1]) + bytes(4)
    return filler(code, change.new_len)


def filler(code: bytes, length: int) -> bytes:
    """`length` bytes of filler in place of `code`: of int3 if it begins with one, else of nops."""
    return INT3 * length if code[:1] == INT3 else nops(length)


def _bodies(comparison: Comparison) -> Iterator[Change]:
    old_of = np.full(len(comparison.right), -1, np.int64)
    old_of[comparison.paired.p] = comparison.paired.o
    for body in comparison.bodies.bodies:
        old = old_of[body.core : body.end]
        old = old[old >= 0]
        if body.record.pad_len and len(old):
            va, last_va = (int(comparison.left.starts[old[i]]) for i in (0, -1))
            old_len = last_va + int(comparison.left.lens[old[-1]]) - va
            yield Change(va, old_len, body.record.native_len, _form(body, old_of))


def _form(body: RecordedBody, old_of: I64) -> PlaceForm:
    if body.core > body.first:
        return PlaceForm.NOPS_IN_FRONT
    return PlaceForm.NOPS_AFTER if old_of[body.end - 1] < 0 else PlaceForm.PREFIXES


def _branches(comparison: Comparison) -> Iterator[Change]:
    left, right, o, p = comparison.left, comparison.right, comparison.paired.o, comparison.paired.p
    which = np.flatnonzero((left.widths[o] == 1) & (right.widths[p] == 4))
    columns = (left.starts[o[which]], left.lens[o[which]], right.lens[p[which]])
    for va, old_len, new_len in zip(*(c.tolist() for c in columns), strict=True):
        yield Change(va, old_len, new_len, PlaceForm.NEAR)


def _fillers(comparison: Comparison) -> Iterator[Change]:
    for gap in comparison.fillers.gaps:
        change = _filler_change(gap, comparison.left, comparison.right)
        if change is not None:
            yield change


def _filler_change(gap: PairedGap, left: Side, right: Side) -> Change | None:
    """The run of filler at the end of a gap that has another length now; None if no form fits."""
    mine, theirs = _bytes(left, gap.o_va, gap.o_end), _bytes(right, gap.p_va, gap.p_end)
    if len(mine) == len(theirs):
        return None
    begin, end = np.searchsorted(left.starts, (gap.o_va, gap.o_end))
    for va in [*left.starts[begin:end].tolist(), gap.o_end]:
        at = va - gap.o_va
        if mine[:at] == theirs[:at] and theirs[at:] == filler(mine[at:], len(theirs) - at):
            return Change(va, gap.o_end - va, len(theirs) - at, PlaceForm.FILLER)
    return None


def _bytes(side: Side, start_va: int, end_va: int) -> bytes:
    section = side.section_of(start_va) or side.section_of(start_va - 1)
    if section is None or end_va <= start_va:
        return b""
    off = section.off + start_va - section.va
    return side.image.data[off : off + end_va - start_va]

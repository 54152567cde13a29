# SPDX-License-Identifier: MIT
"""The bytes of the code under its new layout."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vmipatch.image.types import Section
from vmipatch.verify.static.comparison import Comparison
from vmipatch.verify.static.outline import TRAMPOLINES
from vmipatch.verify.static.reproduce.canvas import Canvas
from vmipatch.verify.static.reproduce.decisions import Change, PlaceForm, written
from vmipatch.verify.static.reproduce.layout import Layout
from vmipatch.verify.static.reproduce.rows import NUMBERS, Row
from vmipatch.verify.static.side import I64, U8

DISPLACEMENTS = (1, 4)
"""Bytes that the displacement of a branch has, which is followed."""


def put_code(
    canvas: Canvas, comparison: Comparison, new: Layout, changes: Sequence[Change]
) -> None:
    """Write every section of code, its branches aimed at the images of their targets."""
    for section in comparison.left.sections:
        off = offset_of(comparison, new, section)
        octets, rows = _pieces(comparison, section, [c for c in changes if _is_in(c, section)])
        canvas.put(off, octets, Row.CODE)
        canvas.put_rows(off, rows)
    _put_branches(canvas, comparison, new, changes)


def _is_in(change: Change, section: Section) -> bool:
    """Whether a change is one of `section`; what is put in belongs to the code before it."""
    first_va = change.va if change.old_len else change.va - 1
    return section.va <= first_va and change.va + change.old_len <= section.end_va


def offset_of(comparison: Comparison, new: Layout, section: Section) -> int:
    """Where in the output a section of code begins; what is out of line follows the room."""
    if section.name != TRAMPOLINES:
        return int(new.heads["off"][section.index])
    return text_offset(comparison, new, new.trampolines[0])


def text_offset(comparison: Comparison, new: Layout, va: int) -> int:
    """Where in the output the byte at `va` is, which lies in the room after .text."""
    text = new.heads[comparison.inputs.original.section_by_name[".text"].index]
    return va - int(text["va"]) + int(text["off"])


def _pieces(
    comparison: Comparison, section: Section, changes: Sequence[Change]
) -> tuple[bytes, U8]:
    """The bytes of one section, displacements still as they were, and their rows."""
    code = comparison.original.section_bytes(section)
    parts: list[bytes] = []
    rows: list[bytes] = []
    at = section.va
    for change in changes:
        kept = code[at - section.va : change.va - section.va]
        old = code[change.va - section.va :][: change.old_len]
        new = written(change, old)
        parts += [kept, new]
        rows += [_row(Row.CODE) * len(kept), _rows_of(change, len(new))]
        at = change.va + change.old_len
    parts.append(code[at - section.va :])
    rows.append(_row(Row.CODE) * len(parts[-1]))
    return b"".join(parts), np.frombuffer(b"".join(rows), np.uint8)


def _row(row: Row) -> bytes:
    return bytes((NUMBERS[row],))


def _rows_of(change: Change, length: int) -> bytes:
    added = max(length - change.old_len, 0)
    padding, code = _row(Row.SITE_PADDING) * added, _row(Row.CODE) * change.old_len
    match change.form:
        case PlaceForm.PREFIXES | PlaceForm.NOPS_IN_FRONT:
            return padding + code
        case PlaceForm.NOPS_AFTER:
            return code + padding
        case PlaceForm.NEAR:
            return _row(Row.BRANCHES) * length
    return _row(Row.FILLER) * length


def _put_branches(
    canvas: Canvas, comparison: Comparison, new: Layout, changes: Sequence[Change]
) -> None:
    left = comparison.left
    which = np.flatnonzero(np.isin(left.widths, DISPLACEMENTS))
    starts, widths = left.starts[which], left.widths[which].astype(np.int64)
    lens = left.lens[which].copy()
    near = [c for c in changes if c.form is PlaceForm.NEAR]
    at = np.searchsorted(starts, np.array([c.va for c in near], np.int64))
    lens[at] = [c.new_len for c in near]
    widths[at] = 4
    ends = new.moves(starts) + lens
    led, linked = left.targets(which), left.linked_targets(which)
    targets = comparison.redirected(new.moves(linked) + led - linked, led, starts)
    offs = _offsets(comparison, new, starts, ends) - widths
    for width in DISPLACEMENTS:
        mine = widths == width
        canvas.put_words(offs[mine], (targets - ends)[mine], Row.BRANCHES, width)


def _offsets(comparison: Comparison, new: Layout, starts: I64, new_vas: I64) -> I64:
    """Offsets in the output of `new_vas`, which belong to instructions at `starts`."""
    result = np.full(len(starts), -1, np.int64)
    for section in comparison.left.sections:
        low, high = np.searchsorted(starts, (section.va, section.end_va))
        begin_va = new.trampolines[0]
        if section.name != TRAMPOLINES:
            begin_va = int(new.heads["va"][section.index])
        moved = offset_of(comparison, new, section) - begin_va
        result[low:high] = new_vas[low:high] + moved
    return result

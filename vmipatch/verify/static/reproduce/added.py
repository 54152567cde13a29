# SPDX-License-Identifier: MIT
"""The sections that the rewriter adds, put together from the records' decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from vmipatch.image.relocations import RAW_REL
from vmipatch.isa.classify import classify
from vmipatch.tables.table import Role, TableName
from vmipatch.verify.static.added import (
    FALLBACK,
    NEW_CODE,
    NEW_RELOCATIONS,
    PAIR,
    THUNK_CALLS,
    pairs,
)
from vmipatch.verify.static.bodies import RECORD_SECTIONS, RecordedBody
from vmipatch.verify.static.candidates import candidates
from vmipatch.verify.static.comparison import Comparison
from vmipatch.verify.static.outline import TRAMPOLINES
from vmipatch.verify.static.reproduce.decisions import INT3
from vmipatch.verify.static.reproduce.layout import Layout
from vmipatch.verify.static.reproduce.rows import Row
from vmipatch.verify.static.side import I64
from vmipatch.verify.static.symbols import NEW_BOUNDS
from vmipatch.verify.static.translations import TRANSLATIONS, led_to
from vmipatch.vmi.record import (
    FINAL_TRANSLATION,
    MERGE_FLAGS,
    NEAR_CALL,
    NEAR_CALL_LEN,
    AnnotationRecord,
)

WORD_LEN = 4


@dataclass(frozen=True, slots=True)
class AddedPart:
    """One added section that is loaded."""

    name: str
    va: int
    data: bytes = field(repr=False)
    row: Row

    @property
    def symbol(self) -> str:
        """The symbol at its start."""
        return NEW_BOUNDS[self.name]

    @property
    def end_va(self) -> int:
        """First address after it."""
        return self.va + len(self.data)


def record_parts(comparison: Comparison, new: Layout) -> list[AddedPart]:
    """The sections of the segment of records, in address order, one right after the other."""
    groups = [[b for b in _in_order(comparison) if b.section == name] for name in RECORD_SECTIONS]
    calls, fallback = _thunk_calls(comparison), _fallback(comparison)
    lens = [16 * len(groups[0]), 16 * len(groups[1]), len(calls), len(fallback)]
    vas = [new.records_va + (new.stride * i or sum(lens[:i])) for i in range(5)]
    thunks = {id(b): _thunk_of(comparison, b) for group in groups for b in group}
    translations, of_thunk = _translations([*groups[0], *groups[1]], thunks, vas[4])
    records = [
        b"".join(
            record.pack()
            for record in sorted(
                (_record(b, of_thunk.get(thunks[id(b)], vas[4])) for b in group), key=_likeness
            )
        )
        for group in groups
    ]
    return [
        AddedPart(RECORD_SECTIONS[0], vas[0], records[0], Row.RECORDS),
        AddedPart(RECORD_SECTIONS[1], vas[1], records[1], Row.RECORDS),
        AddedPart(THUNK_CALLS, vas[2], calls, Row.THUNK_CALLS),
        AddedPart(FALLBACK, vas[3], fallback, Row.FALLBACK),
        AddedPart(TRANSLATIONS, vas[4], translations, Row.TRANSLATIONS),
    ]


def _in_order(comparison: Comparison) -> list[RecordedBody]:
    """The bodies by the original address of their sites; out of line by that of their window."""
    old_of = np.full(len(comparison.right), -1, np.int64)
    old_of[comparison.paired.p] = comparison.paired.o
    cores = np.array([body.core for body in comparison.bodies.bodies], np.int64)
    vas = comparison.left.starts[old_of[cores]]
    keys = _as_in_original(comparison, vas)
    order = np.lexsort((vas, keys))
    return [comparison.bodies.bodies[i] for i in order.tolist()]


def _as_in_original(comparison: Comparison, vas: I64) -> I64:
    """The addresses; of what stands out of line that of its window."""
    section = comparison.original.section_by_name.get(TRAMPOLINES)
    windows = np.array(sorted(w.start_va for w in comparison.manifest.windows), np.int64)
    if section is None or not len(windows):
        return vas
    jumps = comparison.left.targets(comparison.left.find(windows))
    at = np.searchsorted(jumps, vas, side="right") - 1
    return np.where(vas >= section.va, windows[np.maximum(at, 0)], vas)


def _thunk_of(comparison: Comparison, body: RecordedBody) -> int | None:
    """Where the translation of a record leads; None if it is a call of the ROM."""
    record = body.record
    if record.call_off != FINAL_TRANSLATION:
        return None
    return led_to(comparison.output.read(record.translation_va, NEAR_CALL_LEN), record)


def _translations(
    bodies: Sequence[RecordedBody], thunks: dict[int, int | None], va: int
) -> tuple[bytes, dict[int | None, int]]:
    """The bytes of all translations, and the address of that of each thunk."""
    made = bytearray(NEAR_CALL)
    where: dict[int | None, int] = {None: va}
    for body in bodies:
        thunk_va = thunks[id(body)]
        if thunk_va is not None and thunk_va not in where:
            at = where[thunk_va] = va + len(made)
            distance = (thunk_va - at - NEAR_CALL_LEN) & 0xFFFFFFFF
            made += NEAR_CALL[:1] + distance.to_bytes(WORD_LEN, "little")
    return bytes(made) + bytes(-len(made) % WORD_LEN), where


def _record(body: RecordedBody, translation_va: int) -> AnnotationRecord:
    return replace(
        body.record, translation_va=translation_va, translation_len=NEAR_CALL_LEN,
        call_off=body.record.call_off and FINAL_TRANSLATION,
    )  # fmt: skip


def _likeness(record: AnnotationRecord) -> tuple[int, ...]:
    """Records stand by call, translation and lengths, then by address."""
    return (
        record.call, record.translation_va, record.native_len, record.pad_len, record.native_va
    )  # fmt: skip


def _thunk_calls(comparison: Comparison) -> bytes:
    """Calls in thunks by address, then the places that merge flags by theirs."""
    found = [
        (number == MERGE_FLAGS, va, number)
        for *_, va, number in pairs(comparison.output, THUNK_CALLS)
    ]
    return b"".join(PAIR.pack(va, number) for _, va, number in sorted(found))


def _fallback(comparison: Comparison) -> bytes:
    """Address and first byte of what is silently wrong at CPL 1 and has no record."""
    right = comparison.right
    which = candidates(right)
    which = which[comparison.bodies.body_of[which] < 0]
    old_of = np.full(len(right), -1, np.int64)
    old_of[comparison.paired.p] = comparison.paired.o
    rows = []
    for index in which.tolist():
        form = classify(right.code(index))
        if (
            form is not None
            and form.is_unprivileged
            and not _is_copied(comparison, int(old_of[index]))
        ):
            rows.append((int(old_of[index]), int(right.starts[index]), right.code(index)[0]))
    return b"".join(PAIR.pack(va, first) for _, va, first in sorted(rows))


def _is_copied(comparison: Comparison, index: int) -> bool:
    """Whether an instruction of the original is part of an alternative's replacement."""
    table = comparison.tables.get(TableName.ALTERNATIVES)
    if table is None:
        return False
    places = table.places_of(Role.REPLACEMENT)
    va = int(comparison.left.starts[index])
    start = places["va"].astype(np.int64)
    return bool(((start <= va) & (va < start + places["len"])).any())


def relocations_of_thunks(comparison: Comparison) -> bytes:
    """The entries of .rel.vmi.text by address; each repeats one of the kernel's (VP013)."""
    section = comparison.output.section_by_name.get(NEW_RELOCATIONS)
    if section is None:
        return b""
    data = comparison.output.section_bytes(section)
    raw = np.frombuffer(data, RAW_REL, len(data) // RAW_REL.itemsize)
    return raw[np.argsort(raw["offset"], kind="stable")].tobytes()


def code_part(comparison: Comparison, new: Layout) -> AddedPart:
    """Thunks and runtime as they are: VP072 and VP071 have found every byte of them right."""
    start_va, end_va = new.room
    code = comparison.output.section_by_name.get(NEW_CODE)
    data = b"" if code is None else comparison.output.section_bytes(code)
    length = max(end_va - start_va, 0)
    return AddedPart(NEW_CODE, start_va, data[:length].ljust(length, INT3), Row.THUNKS)

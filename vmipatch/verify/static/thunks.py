# SPDX-License-Identifier: MIT
"""Does each thunk do what the instructions of its sites do, and is every byte of it explained?"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from vmipatch.image.elf import ElfImage
from vmipatch.image.relocations import RAW_REL, Relocations
from vmipatch.verify.static.added import NEW_CODE, NEW_RELOCATIONS, THUNK_CALLS, pairs
from vmipatch.verify.static.bodies import RecordedBody
from vmipatch.verify.static.comparison import Comparison, judges
from vmipatch.verify.static.machine import RETURN, State, Unmodelled
from vmipatch.verify.static.meaning import direct, meaning
from vmipatch.verify.static.records import understand
from vmipatch.verify.static.rules import ADDED_WORD, THUNK, THUNK_CALL
from vmipatch.verify.static.sealed import runtime_start
from vmipatch.verify.static.side import Side
from vmipatch.verify.static.translations import TRANSLATIONS
from vmipatch.verify.static.verdict import Report
from vmipatch.verify.static.walk import Walk
from vmipatch.vmi.record import FINAL_TRANSLATION, NEAR_CALL_LEN

NEAR_CALL_OPCODE = 0xE8
INT3 = 0xCC
RUNTIME_ALIGN = 16

Reached = tuple[list[State], list[int]]


@dataclass(slots=True)
class _Thunks:
    """The added code up to the runtime, and what was found out about it."""

    output: ElfImage
    walk: Walk
    reached: dict[tuple[int, bool], Reached | str] = field(default_factory=dict)
    words: set[int] = field(default_factory=set)
    """Addresses of words in thunks that repeat a relocated word of a site."""

    def run(self, va: int, by_call: bool) -> Reached | str:
        """The state after the thunk at `va`, or why it is not known."""
        key = va, by_call
        if key not in self.reached:
            state = State()
            if by_call:
                state.push(RETURN)
            try:
                self.reached[key] = self.walk.run(va, state)
            except Unmodelled as error:
                self.reached[key] = str(error)
        return self.reached[key]


@judges(THUNK, THUNK_CALL, ADDED_WORD)
def check_thunks(comparison: Comparison) -> None:
    """Judge what every record's translation does; the thunks end where the runtime begins."""
    output, report, runtime_va = comparison.output, comparison.report, runtime_start(comparison)
    code = output.section_by_name.get(NEW_CODE)
    if code is None or not code.va <= runtime_va <= code.end_va:
        return
    table = pairs(output, THUNK_CALLS)
    aims = {va: number for _, _, va, number in table}
    added = output.section_bytes(code)[: runtime_va - code.va]
    thunks = _Thunks(output, Walk(code.va, added, aims))
    judge = _Judge(comparison.right, thunks, _relocated(output))
    for body in comparison.bodies.bodies:
        fault = judge.fault(body)
        if fault is not None:
            report.add(THUNK, body.record.native_va, fault, body.place)
    _check_all_explained(thunks.walk, runtime_va < code.end_va, report)
    for index, va, target_va, _ in table:
        if target_va not in thunks.walk.seen or len(aims) != len(table):
            message = f"no thunk has an instruction at {target_va:#x} for this entry alone"
            report.add(THUNK_CALL, va, message, f"{THUNK_CALLS}[{index}]")
    _check_entries(output, thunks.words, report)


def _relocated(output: ElfImage) -> dict[int, tuple[int, int]]:
    """Symbol and kind of each relocated word of the output, by address."""
    entries = Relocations.of(output).entries
    keys = zip(entries["symbol"].tolist(), entries["kind"].tolist(), strict=True)
    return dict(zip(entries["va"].tolist(), keys, strict=True))


@dataclass(slots=True)
class _Judge:
    """Compares translations with the instructions they stand for."""

    side: Side
    thunks: _Thunks
    relocated: dict[int, tuple[int, int]]

    def fault(self, body: RecordedBody) -> str | None:
        """The fault in the translation of one record, None if it is as it should be."""
        codes = [self.side.code(i) for i in range(body.core, body.after)]
        form, call = understand(codes)
        record = body.record
        if form is None or call is not record.call:
            return None  # other rules say so
        try:
            should, word_at = meaning(form, codes, call)
            if record.call_off != FINAL_TRANSLATION:
                fault = _difference([direct(form, call)], should)
                return fault and f"a call of {call.name} alone is not enough: {fault}"
        except Unmodelled as error:
            return str(error)
        raw = self._translation(body)
        if raw is None:
            return None
        target = int.from_bytes(raw[1:5], "little", signed=True)
        target_va = (record.translation_va + NEAR_CALL_LEN + target) & 0xFFFFFFFF
        reached = self.thunks.run(target_va, raw[0] == NEAR_CALL_OPCODE)
        if isinstance(reached, str):
            return f"the thunk at {target_va:#x}: {reached}"
        fault = _difference(reached[0], should) or self._word_fault(
            None if word_at is None else int(self.side.starts[body.core]) + word_at, reached[1]
        )
        return fault and f"the thunk at {target_va:#x} is not for `{codes[0].hex(' ')}`: {fault}"

    def _translation(self, body: RecordedBody) -> bytes | None:
        """The bytes of a final translation; None if other rules find them broken."""
        section = self.thunks.output.section_by_name.get(TRANSLATIONS)
        va = body.record.translation_va
        if section is None or not section.va <= va <= section.end_va - NEAR_CALL_LEN:
            return None
        return self.thunks.output.read(va, NEAR_CALL_LEN)

    def _word_fault(self, site_word_va: int | None, words: list[int]) -> str | None:
        """A relocated word of the site is repeated, with its relocation, and no other one."""
        should = self.relocated.get(site_word_va) if site_word_va is not None else None
        found = [self.relocated.get(va) for va in words]
        if should is not None and found != [should]:
            return "the word that it repeats has another relocation, or none"
        if should is None and any(found):
            return "it relocates a word that its site does not"
        if should is not None:
            self.thunks.words.update(words)
        return None


def _difference(found: list[State], should: list[State]) -> str | None:
    ways = {state.conditions: state for state in found}
    if ways.keys() != {state.conditions for state in should} or len(ways) != len(found):
        return "it decides by other conditions"
    faults = (ways[state.conditions].differs_from(state) for state in should)
    return next((fault for fault in faults if fault is not None), None)


def _check_all_explained(walk: Walk, has_runtime: bool, report: Report) -> None:
    """Every byte belongs to an instruction that a site reaches; int3 stands in front of the
    runtime up to its alignment, or up to the end.
    """
    explained = np.zeros(len(walk.code), np.bool_)
    for va, length in walk.seen.items():
        explained[va - walk.va : va - walk.va + length] = True
    last = int(np.flatnonzero(explained)[-1]) + 1 if explained.any() else 0
    octets = np.frombuffer(walk.code, np.uint8)
    most = RUNTIME_ALIGN - 1 if has_runtime else len(walk.code)
    filler = (np.arange(len(octets)) >= max(last, len(octets) - most)) & (octets == INT3)
    report.counts["thunk bytes"] += int(explained.sum())
    strange = np.flatnonzero(~explained & ~filler)
    if len(strange):
        message = f"{len(strange)} bytes from here on belong to no thunk that a site reaches"
        report.add(THUNK, walk.va + int(strange[0]), message)


def _check_entries(output: ElfImage, words: set[int], report: Report) -> None:
    """Each word that a thunk repeats has exactly one relocation, and nothing else has one."""
    section = output.section_by_name.get(NEW_RELOCATIONS)
    raw = output.section_bytes(section) if section is not None else b""
    raw = raw[: len(raw) // RAW_REL.itemsize * RAW_REL.itemsize]
    places = Counter(np.frombuffer(raw, RAW_REL)["offset"].tolist())
    for va in sorted(words | places.keys()):
        if places[va] != (va in words):
            message = f"{places[va]} relocations, {int(va in words)} belong there"
            report.add(ADDED_WORD, va, message)

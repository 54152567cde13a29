# SPDX-License-Identifier: MIT
"""Is every site rewritten that may be, whole, and has each that stayed a reason that holds?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from vmipatch.image.ascending import among
from vmipatch.image.module import is_linked_module
from vmipatch.isa.classify import call_of, classify, split_prefixes
from vmipatch.isa.forms import AtCpl1, Form, FormTreatment
from vmipatch.tables.table import Role, TableName
from vmipatch.verify.static.bodies import RecordedBody
from vmipatch.verify.static.candidates import candidates
from vmipatch.verify.static.comparison import Comparison, judges
from vmipatch.verify.static.copied import check_copied
from vmipatch.verify.static.early import check_reached_early
from vmipatch.verify.static.machine import ESP, Unmodelled
from vmipatch.verify.static.matching import LOST
from vmipatch.verify.static.meaning import meaning
from vmipatch.verify.static.reasons import OF_A_ZONE, OF_THE_LAYOUT, NativeReason
from vmipatch.verify.static.records import POP_R32, SHADOWED
from vmipatch.verify.static.rules import EARLY_ENTRY, REASON, SPLIT_PAIR, ZONE
from vmipatch.verify.static.side import Side
from vmipatch.verify.static.zones import Zones, zones_of

IN_SHADOW = frozenset({*SHADOWED, "mwait"})
"""Kinds that form one site with a sti before them."""
FAULTS_AT_ITS_SITE = frozenset({"lldt", "ltr", "lgdt", "lidt", "mov to cr"})
"""Kinds whose operand decides whether they fault, which would happen elsewhere in a thunk: with an
entry in the exception table they stay."""
LAID_OUT = frozenset({".text", ".text.behind", ".init.text"})
"""Code of a kernel that is laid out anew (the second is a part of .text whose symbols were
recovered); of a module it is all code."""


@judges(ZONE, REASON, EARLY_ENTRY)
def check_zones(comparison: Comparison) -> None:
    """No record lies in a zone, and what stayed native lies in the zone that its reason names."""
    zones = zones_of(comparison)
    faulting = _faulting(comparison)
    for body in comparison.bodies.bodies:
        _check_body(body, comparison, zones, faulting)
    judge = _Reasons(comparison, zones, faulting)
    for va, reason in sorted(comparison.manifest.native.items()):
        fault = judge.fault(va, reason)
        if fault is not None:
            comparison.report.add(REASON, va, fault)
    comparison.report.counts["reasons"] += len(comparison.manifest.native)
    check_copied(comparison)
    check_reached_early(comparison, lambda start, end: _is_early(zones, start, end))


def _is_early(zones: Zones, start_va: int, end_va: int) -> bool:
    return NativeReason.BEFORE_PAGING in zones.reasons(start_va, end_va)


def _faulting(comparison: Comparison) -> frozenset[int]:
    """Addresses of instructions that the exception table expects to fault."""
    table = comparison.tables.get(TableName.EX_TABLE)
    if table is None:
        return frozenset()
    words = table.words
    return frozenset(words["target_va"][words["role"] == Role.INSTRUCTION].tolist())


def _check_body(
    body: RecordedBody, comparison: Comparison, zones: Zones, faulting: frozenset[int]
) -> None:
    left, old = comparison.left, comparison.paired.old_of[body.core : body.after]
    if np.any(old == LOST):
        return  # which VP060 says
    start_va, end_va = int(left.starts[old[0]]), left.end_va(int(old[-1]))
    reasons = zones.reasons(start_va, end_va)
    if reasons == {NativeReason.ALTERNATIVE} and not body.record.pad_len:
        reasons = set()  # a call fits where it stands, until the kernel replaces it
    for why in sorted(reasons, key=lambda w: w.value):
        message = f"it has a record, and {why.value}"
        comparison.report.add(ZONE, body.record.native_va, message, body.place)
    form = classify(left.code(int(old[0])))
    if start_va in faulting and form is not None and form.kind in FAULTS_AT_ITS_SITE:
        message = f"it has a record, and {NativeReason.FIXUP.value}"
        comparison.report.add(ZONE, body.record.native_va, message, body.place)


@judges(SPLIT_PAIR)
def check_pairs(comparison: Comparison) -> None:
    """A sti with what stands in its shadow, and a pushf with its pop, is one site or none."""
    left, right = comparison.left, comparison.right
    body_of, new_of = comparison.bodies.body_of, comparison.paired.new_of
    targets = set(comparison.targets.tolist())
    for first in candidates(left).tolist():
        if not is_pair(left, first):
            continue
        second = first + 1
        bodies = [int(body_of[n]) if n != LOST else -1 for n in new_of[[first, second]].tolist()]
        if int(left.starts[second]) in targets:
            # They cannot be one site; then the sti stays.
            fault = bodies[0] >= 0 and not _reads_flags(left, first)
        else:
            fault = bodies[0] != bodies[1]
        if fault:
            va = int(right.starts[new_of[first]]) if new_of[first] != LOST else 0
            shown = left.code(first).hex(" "), left.code(second).hex(" ")
            message = f"`{shown[0]}` has another record than `{shown[1]}`, or one of them none"
            comparison.report.add(SPLIT_PAIR, va, message)


def is_pair(side: Side, first: int) -> bool:
    """Whether an instruction forms a site with the one after it."""
    if first + 1 >= len(side) or side.end_va(first) != side.starts[first + 1]:
        return False
    form, after = classify(side.code(first)), side.code(first + 1)
    if form is None:
        return False
    if form.kind == "sti":
        follower = classify(after)
        return follower is not None and follower.kind in IN_SHADOW
    return form.kind == "pushf" and after in POP_R32


def _reads_flags(side: Side, first: int) -> bool:
    form = classify(side.code(first))
    return form is not None and form.kind == "pushf"


@dataclass(frozen=True, slots=True, eq=False)
class _Reasons:
    """Recomputes for which reasons an instruction may have stayed."""

    comparison: Comparison
    zones: Zones
    faulting: frozenset[int]
    known: Mapping[str, NativeReason] = field(
        default_factory=lambda: {why.value: why for why in NativeReason}
    )

    def fault(self, va: int, reason: str) -> str | None:
        """Why `reason` does not hold of the output's instruction at `va`; None if it does."""
        why, right = self.known.get(reason), self.comparison.right
        index = int(right.find(np.array([va], np.int64))[0])
        old = int(self.comparison.paired.old_of[index]) if index >= 0 else LOST
        form = classify(right.code(index)) if old != LOST else None
        if form is None or form.treatment is FormTreatment.LEAVE:
            return "it is listed as native, and no instruction with a meaning of its own is here"
        if self.comparison.bodies.body_of[index] >= 0:
            return "it is listed as native, and has a record"
        if why is None:
            return f"`{reason[:60]}` is not a reason of the list"
        return None if self._holds(why, old, form) else f"it does not hold that this {why.value}"

    def _holds(self, why: NativeReason, old: int, form: Form) -> bool:
        left = self.comparison.left
        last = old + 1 if self._is_whole_pair(old) else old
        start_va, end_va = int(left.starts[old]), left.end_va(last)
        if why in OF_A_ZONE:
            return why in self.zones.reasons(start_va, end_va)
        is_call = form.treatment is FormTreatment.CALL
        if why in OF_THE_LAYOUT:
            return is_call
        codes = [left.code(index) for index in range(old, last + 1)]
        tests: Mapping[NativeReason, Callable[[], bool]] = {
            NativeReason.NO_CALL: lambda: not self._has_call(old, form) and not _by_selector(form),
            NativeReason.NEVER_A_CALL: lambda: not is_call and _by_selector(form),
            NativeReason.OTHER_SECTION: lambda: self._is_elsewhere(start_va),
            NativeReason.FIXUP: lambda: (
                start_va in self.faulting and form.kind in FAULTS_AT_ITS_SITE
            ),
            NativeReason.HELD_BY_FIXUP: lambda: is_call and start_va in self.faulting,
            NativeReason.NO_TRANSLATION: lambda: is_call and _is_odd(form, codes),
            NativeReason.LABELLED: lambda: self._is_labelled(start_va, end_va),
            NativeReason.FIXED: lambda: self._is_pinned(start_va, end_va),
        }
        return tests[why]()

    def _is_whole_pair(self, index: int) -> bool:
        """Whether an instruction and the one after it are one site: nothing points between them."""
        left = self.comparison.left
        if not is_pair(left, index):
            return False
        second_va = int(left.starts[index + 1])
        return not bool(among(np.array([second_va], np.int64), self.comparison.targets)[0])

    def _has_call(self, index: int, form: Form) -> bool:
        """Whether a VMI call stands for the instruction, or for the pair that it begins."""
        left = self.comparison.left
        if form.kind == "sti" and is_pair(left, index):
            follower = classify(left.code(index + 1))
            is_called = follower is not None and follower.kind in SHADOWED
            return is_called and self._is_whole_pair(index)
        return form.treatment is FormTreatment.CALL

    def _is_elsewhere(self, va: int) -> bool:
        original = self.comparison.original
        section = original.section_at(va)
        return not is_linked_module(original) and section is not None and (
            section.name not in LAID_OUT
        )  # fmt: skip

    def _is_labelled(self, start_va: int, end_va: int) -> bool:
        inner = self.comparison.inner
        return bool(np.any((inner > start_va) & (inner < end_va)))

    def _is_pinned(self, start_va: int, end_va: int) -> bool:
        return any(
            (start < end_va and end > start_va) or start_va < start < end_va
            for start, end in self.comparison.inputs.pinned
        )


def _by_selector(form: Form) -> bool:
    return form.at_cpl1 is AtCpl1.FAULTS_BY_SELECTOR


def _is_odd(form: Form, codes: list[bytes]) -> bool:
    """Whether an instruction, or its pair, has prefixes or operands that no thunk takes over."""
    prefixes, rest = split_prefixes(codes[0])
    tail = rest[len(form.opcode) :]
    if prefixes or (tail and tail[0] & 7 == ESP):
        return True
    try:
        call = call_of(form, codes[0])
        if call is None:
            return True
        meaning(form, codes, call)
    except Unmodelled:
        return True
    return False

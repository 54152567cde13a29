# SPDX-License-Identifier: MIT
"""Does every record describe its site, and has every site that needs one a record?"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from vmipatch.choices import Padding
from vmipatch.image.module import is_linked_module
from vmipatch.isa.classify import call_of, classify, has_memory_operand
from vmipatch.isa.forms import Form, FormTreatment
from vmipatch.isa.second import decode_second
from vmipatch.verify.static.bodies import RECORD_SECTIONS, RecordedBody
from vmipatch.verify.static.candidates import candidates
from vmipatch.verify.static.comparison import Comparison, judges
from vmipatch.verify.static.links import check_links
from vmipatch.verify.static.matching import LOST, REDUNDANT_PREFIX
from vmipatch.verify.static.pads import nops
from vmipatch.verify.static.rules import (
    ANNOTATION_RELOCATION,
    NATIVE_UNLISTED,
    RECORD_BODY,
    RECORD_CALL,
    RECORD_LENGTH,
    RECORD_SECTION,
)
from vmipatch.verify.static.translations import TRANSLATIONS
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.record import NEAR_CALL_LEN, AnnotationRecord

INIT_TEXT, INIT_OF_MODULE = ".init.text", ".init"
"""The code that is freed: that section of a kernel, all of a module's whose names begin so
(module_init_section, kernel/module/main.c)."""
MAX_PREFIXES = 4
SHADOWED = {"hlt": VmiCall.HALT, "sysexit": VmiCall.SYSEXIT}
"""Instructions in the interrupt shadow of a fused sti, and the call of the pair."""
POP_R32 = frozenset(bytes((code,)) for code in range(0x58, 0x60))


@judges(RECORD_BODY, RECORD_LENGTH, RECORD_CALL, RECORD_SECTION)
def check_records(comparison: Comparison) -> None:
    """Judge every record by the instructions of the original."""
    bodies, judge = comparison.bodies.bodies, _Judge(comparison)
    comparison.report.counts["records"] += len(bodies)
    for body in bodies:
        judge.check(body)
    _check_order(comparison)


def _check_order(comparison: Comparison) -> None:
    """Records stand by call, translation, lengths and address: like ones pack best together."""
    by_place = sorted(comparison.bodies.bodies, key=lambda body: body.record_va)
    for low, high in pairwise(by_place):
        if low.section == high.section and _rank(low.record) > _rank(high.record):
            message = "it stands before a record that comes first"
            comparison.report.add(RECORD_LENGTH, high.record_va, message, low.place)


def _rank(record: AnnotationRecord) -> tuple[int, ...]:
    return (
        record.call, record.translation_va, record.native_len, record.pad_len, record.native_va
    )  # fmt: skip


class _Judge:
    """Judges the bodies of one output against the instructions of its original."""

    def __init__(self, comparison: Comparison) -> None:
        self._left, self._right = comparison.left, comparison.right
        self._output = comparison.output
        self._report = comparison.report
        self._old_of = comparison.paired.old_of
        self._has_nops_alone = comparison.manifest.padding == Padding.NOP.value

    def check(self, body: RecordedBody) -> None:
        """Judge one record."""
        old = self._old_of[body.core : body.after]
        where = f"its body at {body.record.native_va:#x}"
        if np.any(old == LOST) or np.any(np.diff(old) != 1):
            message = f"{where} has no counterpart in the original"
            self._report.add(RECORD_BODY, body.record_va, message, body.place)
            return
        codes = [self._left.code(int(o)) for o in old]
        form, call = understand(codes)
        if form is None:
            shown = b"".join(codes).hex(" ")
            message = f"{where} holds `{shown}`, which is not a site"
            self._report.add(RECORD_BODY, body.record_va, message, body.place)
            return
        self._check_length(body, form, codes, int(old[-1]))
        if call is not body.record.call:
            message = f"calls {body.record.call.name} for a site of {call.name if call else 'none'}"
            self._report.add(RECORD_CALL, body.record_va, message, body.place)
        self._check_section(body)

    def _check_length(self, body: RecordedBody, form: Form, codes: list[bytes], last: int) -> None:
        record = body.record
        after = 0 if self._was_filled(body, last) else body.end - body.after
        filled = 0 if after else int(self._right.lens[body.after : body.end].sum())
        pad_len = record.native_len - sum(map(len, codes)) - filled
        if record.native_len < NEAR_CALL_LEN:
            complaint = f"{record.native_len} bytes have no room for a call"
            self._report.add(RECORD_LENGTH, body.record_va, complaint, body.place)
        elif record.pad_len and record.native_len != NEAR_CALL_LEN:
            complaint = f"padded to {record.native_len} bytes, a call has {NEAR_CALL_LEN}"
            self._report.add(RECORD_LENGTH, body.record_va, complaint, body.place)
        elif record.pad_len != pad_len:
            complaint = f"the padding is {pad_len} bytes long, the record says {record.pad_len}"
            self._report.add(RECORD_LENGTH, body.record_va, complaint, body.place)
        kind = self._padding_fault(body, form, codes[0], after > 0)
        if kind is not None:
            self._report.add(RECORD_LENGTH, record.native_va, kind, body.place)

    def _padding_fault(
        self, body: RecordedBody, form: Form, code: bytes, after: bool
    ) -> str | None:
        """The fault in the kind and place of the padding, None if it is as it should be."""
        first = self._right.code(body.core)
        prefixes, in_front = len(first) - len(code), body.core > body.first
        if bool(prefixes) + in_front + after > 1:
            return "the padding is of more than one kind"
        if prefixes and (first[0] != REDUNDANT_PREFIX or prefixes > MAX_PREFIXES):
            return f"padded with {prefixes} prefixes, the first {first[0]:02x}"
        addresses = has_memory_operand(form, code) or form.has_string_source
        if prefixes and addresses:
            return "a prefix changes what this instruction addresses"
        if body.record.pad_len and bool(prefixes) == (self._has_nops_alone or addresses):
            return f"it is padded with {'prefixes' if prefixes else 'nops'}, and should not be"
        if after and form.kind == "sti":
            return "a nop after sti ends its interrupt shadow"
        if in_front and form.kind != "sti":
            return "nops stand in front of the instruction"
        filler = [*range(body.first, body.core), *range(body.after, body.end)]
        padding = b"".join(self._right.code(index) for index in filler)
        if body.record.pad_len and not prefixes and padding != nops(len(padding)):
            return f"`{padding.hex(' ')}` is not the padding of {len(padding)} bytes"
        return None

    def _was_filled(self, body: RecordedBody, last: int) -> bool:
        """Whether the filler after the body stood after it in the original too."""
        if body.record.pad_len:
            return False
        count = body.end - body.after
        mine = [self._left.code(i) for i in range(last + 1, min(last + 1 + count, len(self._left)))]
        return mine == [self._right.code(i) for i in range(body.after, body.end)]

    def _check_section(self, body: RecordedBody) -> None:
        output = self._output
        holder = output.section_at(body.record.native_va)
        name = holder.name if holder else ""
        freed = name.startswith(INIT_OF_MODULE) if is_linked_module(output) else name == INIT_TEXT
        should = RECORD_SECTIONS[freed]
        if body.section != should:
            message = f"a record of code in {name or 'no section'}"
            self._report.add(RECORD_SECTION, body.record_va, message, body.place)


def understand(codes: list[bytes]) -> tuple[Form | None, VmiCall | None]:
    """The form and VMI call of a site made of these instructions; None if they are no site."""
    form = classify(codes[0])
    if form is None:
        return None, None
    if len(codes) == 1:
        return (
            (form, call_of(form, codes[0]))
            if form.treatment is FormTreatment.CALL
            else (None, None)
        )
    if len(codes) > 2:
        return None, None
    follower = classify(codes[1])
    if form.kind == "sti" and follower is not None and follower.kind in SHADOWED:
        return form, SHADOWED[follower.kind]
    if form.kind == "pushf" and codes[1] in POP_R32:
        return form, call_of(form, codes[0])
    return None, None


@judges(NATIVE_UNLISTED)
def check_native(comparison: Comparison) -> None:
    """Every instruction that would be silently wrong at CPL 1 has a record or a reason."""
    output, report = comparison.right, comparison.report
    body_of, listed = comparison.bodies.body_of, comparison.manifest.native
    for index in candidates(output).tolist():
        code = output.code(index)
        form = classify(code)
        if form is None:
            continue
        report.counts["sensitive instructions"] += 1
        va = int(output.starts[index])
        if form.is_unprivileged and body_of[index] < 0 and va not in listed:
            message = f"`{code.hex(' ')}` ({form.name}) has neither record nor reason"
            report.add(NATIVE_UNLISTED, va, message)


@judges(NATIVE_UNLISTED)
def check_among_data(comparison: Comparison) -> None:
    """Functions among data are what they were: so none may be silently wrong at CPL 1."""
    for va, code in comparison.output.functions_among_data():
        decoded = decode_second(code, va)
        for start, length in zip(decoded.starts.tolist(), decoded.lens.tolist(), strict=True):
            one = code[start - va :][:length]
            form = classify(one)
            if form is not None and form.is_unprivileged:
                message = f"`{one.hex(' ')}` ({form.name}) lies among data"
                comparison.report.add(NATIVE_UNLISTED, start, message)


@judges(ANNOTATION_RELOCATION)
def check_record_relocations(comparison: Comparison) -> None:
    """Nothing relocates a record or a translation of a kernel; a module's loader fills in all."""
    output, report = comparison.output, comparison.report
    if is_linked_module(output):
        check_links(comparison)
        return
    for name in (*RECORD_SECTIONS, TRANSLATIONS):
        rel = output.section_by_name.get(".rel" + name)
        if rel is not None and rel.size:
            message = "records hold linked addresses, the runtime adds what the loader moved by"
            report.add(ANNOTATION_RELOCATION, rel.va, message, rel.name)

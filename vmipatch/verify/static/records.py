# SPDX-License-Identifier: MIT
"""Does every record describe its site, and has every site that needs one a record?"""

from __future__ import annotations

import numpy as np

from vmipatch.image.elf import ElfImage
from vmipatch.image.module import is_linked_module
from vmipatch.isa.classify import call_of, classify, has_memory_operand
from vmipatch.isa.forms import Form, Treatment
from vmipatch.isa.second import decode_second
from vmipatch.verify.static.bodies import RECORD_SECTIONS, Bodies, Body
from vmipatch.verify.static.candidates import candidates
from vmipatch.verify.static.images import NOWHERE
from vmipatch.verify.static.manifest import Manifest
from vmipatch.verify.static.matching import REDUNDANT_PREFIX, Match
from vmipatch.verify.static.rules import (
    ANNOTATION_RELOCATION,
    NATIVE_UNLISTED,
    RECORD_BODY,
    RECORD_CALL,
    RECORD_LENGTH,
    RECORD_SECTION,
)
from vmipatch.verify.static.side import Side
from vmipatch.verify.static.translations import TRANSLATIONS, check_translations
from vmipatch.verify.static.verdict import Report
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.record import (
    NEAR_CALL_LEN,
)

INIT_TEXT, INIT_OF_MODULE = ".init.text", ".init"
"""The code that is freed: that section of a kernel, all of a module's whose names begin so
(module_init_section, kernel/module/main.c)."""
MAX_PREFIXES = 4
SHADOWED = {"hlt": VmiCall.HALT, "sysexit": VmiCall.SYSEXIT}
"""What may stand in the interrupt shadow of a fused sti, and the call of the pair."""
POP_R32 = frozenset(bytes((code,)) for code in range(0x58, 0x60))


class RecordCheck:
    """Judges the bodies of one output against the instructions of its original."""

    def __init__(
        self, sides: tuple[Side, Side], paired: Match, bodies: Bodies, report: Report
    ) -> None:
        self._left, self._right = sides
        self._bodies = bodies
        self._report = report
        self._old_of = np.full(len(self._right), NOWHERE, np.int64)
        self._old_of[paired.p] = paired.o

    def check(self, output: ElfImage) -> None:
        """Judge every record."""
        self._report.counts["records"] += len(self._bodies.bodies)
        for body in self._bodies.bodies:
            self._check_body(output, body)
        check_translations(output, self._bodies.bodies, self._report)

    def _check_body(self, output: ElfImage, body: Body) -> None:
        old = self._old_of[body.core : body.behind]
        where = f"its body at {body.record.native_va:#x}"
        if np.any(old == NOWHERE) or np.any(np.diff(old) != 1):
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
        self._check_section(output, body)

    def _check_length(self, body: Body, form: Form, codes: list[bytes], last: int) -> None:
        record = body.record
        behind = 0 if self._was_filled(body, last) else body.end - body.behind
        filled = 0 if behind else int(self._right.lens[body.behind : body.end].sum())
        pad_len = record.native_len - sum(map(len, codes)) - filled
        if record.native_len < NEAR_CALL_LEN:
            complaint = f"{record.native_len} bytes have no room for a call"
            self._report.add(RECORD_LENGTH, body.record_va, complaint, body.place)
        elif record.pad_len != pad_len:
            complaint = f"the padding is {pad_len} bytes long, the record says {record.pad_len}"
            self._report.add(RECORD_LENGTH, body.record_va, complaint, body.place)
        kind = self._padding_fault(body, form, codes[0], behind > 0)
        if kind is not None:
            self._report.add(RECORD_LENGTH, record.native_va, kind, body.place)

    def _padding_fault(self, body: Body, form: Form, code: bytes, behind: bool) -> str | None:
        """What is wrong with the kind and place of the padding, None if nothing is."""
        first = self._right.code(body.core)
        prefixes, in_front = len(first) - len(code), body.core > body.first
        if bool(prefixes) + in_front + behind > 1:
            return "the padding is of more than one kind"
        if prefixes and (first[0] != REDUNDANT_PREFIX or prefixes > MAX_PREFIXES):
            return f"padded with {prefixes} prefixes, the first {first[0]:02x}"
        if prefixes and (has_memory_operand(form, code) or form.has_string_source):
            return "a prefix changes what this instruction addresses"
        if behind and form.kind == "sti":
            return "a nop behind sti ends its interrupt shadow"
        if in_front and form.kind != "sti":
            return "nops stand in front of the instruction"
        return None

    def _was_filled(self, body: Body, last: int) -> bool:
        """Whether the filler behind the body stood behind it in the original too."""
        if body.record.pad_len:
            return False
        count = body.end - body.behind
        mine = [self._left.code(i) for i in range(last + 1, min(last + 1 + count, len(self._left)))]
        return mine == [self._right.code(i) for i in range(body.behind, body.end)]

    def _check_section(self, output: ElfImage, body: Body) -> None:
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
        return (form, call_of(form, codes[0])) if form.treatment is Treatment.CALL else (None, None)
    if len(codes) > 2:
        return None, None
    follower = classify(codes[1])
    if form.kind == "sti" and follower is not None and follower.kind in SHADOWED:
        return form, SHADOWED[follower.kind]
    if form.kind == "pushf" and codes[1] in POP_R32:
        return form, call_of(form, codes[0])
    return None, None


def check_native(output: Side, bodies: Bodies, manifest: Manifest, report: Report) -> None:
    """Every instruction that would be silently wrong at CPL 1 has a record or a reason."""
    for index in candidates(output).tolist():
        code = output.code(index)
        form = classify(code)
        if form is None:
            continue
        report.counts["sensitive instructions"] += 1
        va = int(output.starts[index])
        if form.is_unprivileged and bodies.body_of[index] < 0 and va not in manifest.native:
            message = f"`{code.hex(' ')}` ({form.name}) has neither record nor reason"
            report.add(NATIVE_UNLISTED, va, message)


def check_among_data(output: ElfImage, report: Report) -> None:
    """Functions among data are what they were: so none may be silently wrong at CPL 1."""
    for va, code in output.functions_among_data():
        decoded = decode_second(code, va)
        for start, length in zip(decoded.starts.tolist(), decoded.lens.tolist(), strict=True):
            one = code[start - va :][:length]
            form = classify(one)
            if form is not None and form.is_unprivileged:
                message = f"`{one.hex(' ')}` ({form.name}) lies among data"
                report.add(NATIVE_UNLISTED, start, message)


def check_record_relocations(output: ElfImage, report: Report) -> None:
    """Nothing relocates a record or a translation."""
    for name in (*RECORD_SECTIONS, TRANSLATIONS):
        rel = output.section_by_name.get(".rel" + name)
        if rel is not None and rel.size:
            message = "records hold linked addresses, the runtime adds what the loader moved by"
            report.add(ANNOTATION_RELOCATION, rel.va, message, rel.name)

# SPDX-License-Identifier: MIT
"""Is what the runtime writes over a native body well formed, and does it end in the right call?

A translation either holds a near call that the runtime aims at the ROM, or is final: then it is a
near call or jump to a thunk, and it is the thunk that holds calls to be aimed. It leads there from
where it stands; the runtime corrects the distance when it copies it over a native body.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np

from vmipatch.image.elf import ElfImage
from vmipatch.image.types import Section
from vmipatch.isa.second import Filler, Leaves, decode_second
from vmipatch.verify.static.added import NEW_CODE, THUNK_CALLS, pairs
from vmipatch.verify.static.bodies import RecordedBody
from vmipatch.verify.static.comparison import Comparison, judges
from vmipatch.verify.static.pads import PADS
from vmipatch.verify.static.rules import RECORD_TRANSLATION
from vmipatch.verify.static.verdict import Report
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.record import FINAL_TRANSLATION, NEAR_CALL, NEAR_CALL_LEN, AnnotationRecord

TRANSLATIONS = ".vmi.translation"
NEAR_OPCODES = b"\xe8\xe9"
"""Near call and jump."""
WORD_LEN = 4
ANSWERED_BY_THUNKS = frozenset({VmiCall.READ_SEGMENT})
"""Calls that a thunk may answer alone: it clears the RPL of the selector that it reads."""


@judges(RECORD_TRANSLATION)
def check_translations(comparison: Comparison) -> None:
    """Judge the translation of every record."""
    output, bodies, report = comparison.output, comparison.bodies.bodies, comparison.report
    found = [(body, _translation(output, body.record)) for body in bodies]
    thunks = _Thunks(output, [(b.record, code) for b, code in found if isinstance(code, bytes)])
    _check_whole(comparison)
    for body, code in found:
        fault = code if isinstance(code, str) else _fault(code, body.record, thunks)
        if fault is not None:
            report.add(RECORD_TRANSLATION, body.record_va, fault, body.place)
    _check_order(found, report)


def _check_order(found: Sequence[tuple[RecordedBody, bytes | str]], report: Report) -> None:
    """Thunks stand in the order of the translations that target them, each by its own."""
    led = {
        body.record.translation_va: led_to(code, body.record)
        for body, code in found
        if isinstance(code, bytes) and body.record.call_off == FINAL_TRANSLATION
    }
    targets = [(va, target) for va, target in sorted(led.items()) if target is not None]
    for (_, low), (va, high) in pairwise(targets):
        if low >= high:
            message = f"its thunk at {high:#x} should follow the one before, at {low:#x}"
            report.add(RECORD_TRANSLATION, va, message, TRANSLATIONS)


def _check_whole(comparison: Comparison) -> None:
    """Each byte of the section belongs to a translation, or fills its last word; but the first
    translation may be one that no record has.
    """
    section = comparison.output.section_by_name.get(TRANSLATIONS)
    if section is None:
        return
    free = np.ones(section.size, np.bool_)
    records = (body.record for body in comparison.bodies.bodies)
    for start, size in {(r.translation_va - section.va, r.translation_len) for r in records}:
        free[max(start, 0) : max(start + size, 0)] = False
    code = comparison.output.section_bytes(section)
    if code.startswith(NEAR_CALL):
        free[:NEAR_CALL_LEN] = False
    last = section.size if free.all() else int(np.flatnonzero(~free)[-1]) + 1
    filler = section.size - last < WORD_LEN and not any(code[last:])
    strange = np.flatnonzero(free[:last] if filler else free)
    if len(strange):
        va = section.va + int(strange[0])
        message = f"{len(strange)} bytes from here on belong to no translation"
        comparison.report.add(RECORD_TRANSLATION, va, message, TRANSLATIONS)


def _translation(output: ElfImage, record: AnnotationRecord) -> bytes | str:
    """The bytes of a translation, or why there are none."""
    section = output.section_by_name.get(TRANSLATIONS)
    start, end = record.translation_va, record.translation_va + record.translation_len
    if section is None or not section.va <= start < end <= section.end_va:
        return f"[{start:#x}, {end:#x}) is not in {TRANSLATIONS}"
    if record.translation_len > record.native_len:
        return f"{record.translation_len} bytes do not fit into {record.native_len}"
    return output.read(start, end - start)


def _fault(code: bytes, record: AnnotationRecord, thunks: _Thunks) -> str | None:
    if record.call_off == FINAL_TRANSLATION:
        return thunks.fault(code, record)
    call, rest = code[:NEAR_CALL_LEN], code[NEAR_CALL_LEN:]
    if record.call_off or call != NEAR_CALL:
        return f"there is no near call to aim at offset {record.call_off}, or not at its start"
    if not _pads(rest):
        return f"`{code.hex(' ')}` is not a near call, with nothing but nops after it"
    return None


class _Thunks:
    """Where thunks begin, and which calls each holds."""

    def __init__(
        self, output: ElfImage, translations: Sequence[tuple[AnnotationRecord, bytes]]
    ) -> None:
        code = output.section_by_name.get(NEW_CODE)
        final = [t for t in translations if t[0].call_off == FINAL_TRANSLATION]
        found = (led_to(raw, record) for record, raw in final)
        targets = {target for target in found if target is not None}
        self._starts = sorted(targets & _entries(output, code)) if code is not None else []
        self._end_va = code.end_va if code is not None else 0
        self._calls = sorted((va, number) for _, _, va, number in pairs(output, THUNK_CALLS))

    def fault(self, code: bytes, record: AnnotationRecord) -> str | None:
        """The fault in a final translation, None if it is as it should be."""
        target = led_to(code, record)
        if target is None:
            return f"`{code.hex(' ')}` is not a near call or jump, with nothing but nops after it"
        at = bisect.bisect_left(self._starts, target)
        if at == len(self._starts) or self._starts[at] != target:
            return f"it targets {target:#x}, where no thunk begins"
        following = [*self._starts[at + 1 : at + 2], self._end_va][0]
        held = [number for va, number in self._calls if target <= va < following]
        if record.call not in held and (held or record.call not in ANSWERED_BY_THUNKS):
            names = [VmiCall(n).name for n in held if n in VmiCall._value2member_map_]
            shown = ", ".join(names) or "nothing"
            return f"the thunk at {target:#x} calls {shown}, the record says {record.call.name}"
        return None


def _entries(output: ElfImage, code: Section) -> set[int]:
    """Addresses in the added code that are not run into from above: where a thunk may begin."""
    decoded = decode_second(output.section_bytes(code), code.va)
    ended = np.isin(decoded.leaves, (Leaves.STOP, Leaves.JUMP)) | (decoded.fillers != Filler.CODE)
    first = np.ones(len(decoded), np.bool_)
    first[1:] = ended[:-1]
    return set(decoded.starts[first].tolist())


def led_to(code: bytes, record: AnnotationRecord) -> int | None:
    """Where a final translation leads; None if it is not a branch and nops."""
    if code[0] not in NEAR_OPCODES or len(code) < NEAR_CALL_LEN or not _pads(code[NEAR_CALL_LEN:]):
        return None
    disp = int.from_bytes(code[1:NEAR_CALL_LEN], "little", signed=True)
    return (record.translation_va + NEAR_CALL_LEN + disp) & 0xFFFFFFFF


@lru_cache(maxsize=4096)
def _pads(code: bytes) -> bool:
    """Whether `code` is nothing but nops of padding."""
    decoded = decode_second(code, 0)
    pieces = zip(decoded.starts.tolist(), decoded.lens.tolist(), strict=True)
    return all(code[at : at + size] in PADS for at, size in pieces)

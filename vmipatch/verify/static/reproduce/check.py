# SPDX-License-Identifier: MIT
"""Is the output, to the last byte, the file that should be there?"""

from __future__ import annotations

from collections import Counter

import numpy as np

from vmipatch.image.module import Module
from vmipatch.verify.static.comparison import Comparison, judges
from vmipatch.verify.static.file_ledger import FileLedger
from vmipatch.verify.static.reproduce.module import reproduce_module
from vmipatch.verify.static.reproduce.place import Reproduction
from vmipatch.verify.static.reproduce.reproduce import reproduce
from vmipatch.verify.static.reproduce.rows import COPIED, Row
from vmipatch.verify.static.rules import FILE_REST, UNEXPLAINED
from vmipatch.verify.static.side import I64, U8
from vmipatch.vmi.record import FINAL_TRANSLATION

BLOCK_LEN = 1 << 20


@judges(*dict.fromkeys(row.rule for row in Row))
def check_file(comparison: Comparison) -> None:
    """Build the expected file of a kernel and compare; the ledger goes to the report.

    Only of an output in which no other rule found anything: what is made from broken facts says
    nothing.
    """
    report = comparison.report
    if report.has_findings:
        return
    if comparison.output.trimmed:
        report.add(FILE_REST, 0, "its debug sections hold something", "debug sections")
        return
    _compare(comparison, reproduce(comparison), comparison.output.data)


def check_module_file(original: Module, output: Module, comparison: Comparison) -> None:
    """The same of a module; `comparison` is of the linked images of both."""
    report = comparison.report
    if not report.has_findings:
        made = reproduce_module(comparison, original.file)
        _compare(comparison, made, output.file.data)


def differences(octets: U8, made: Reproduction) -> I64:
    """Offsets at which a file of `octets` is not the expected one, as far as both reach."""
    length = min(len(octets), len(made.canvas.octets))
    found = octets[:length] != made.canvas.octets[:length]
    found |= made.canvas.rows[:length] == 0
    return np.flatnonzero(found)


def _compare(comparison: Comparison, made: Reproduction, data: bytes) -> None:
    """Report each byte that is another, or that nothing explains; the ledger goes along."""
    report = comparison.report
    octets, canvas = np.frombuffer(data, np.uint8), made.canvas
    excess = len(octets) - len(canvas.octets)
    if excess:
        much = f"{abs(excess)} bytes {'more' if excess > 0 else 'less'}"
        report.add(UNEXPLAINED, 0, f"the file has {much} than it should", "end of the file")
    rows = tuple(Row)
    for off in differences(octets, made).tolist():
        row = rows[canvas.rows[off]]
        message = f"offset {off:#x}: {octets[off]:02x} stands where {canvas.octets[off]:02x} should"
        va = _address(comparison, off)
        report.add(row.rule, va, f"{message} ({row.label})", None if va else row.label)
    report.file = ledger_of(comparison, made, len(data))


def _address(comparison: Comparison, off: int) -> int:
    """The address in the output of a byte of its file, 0 if it is not loaded."""
    loads = (s for s in comparison.output.loads if s.off <= off < s.off + s.file_len)
    return next((load.va + off - load.off for load in loads), 0)


def ledger_of(comparison: Comparison, made: Reproduction, file_len: int) -> FileLedger:
    """How many bytes each row has, and how many decisions of each kind the file follows."""
    count = _counted(made.canvas.rows)
    excess = file_len - len(made.canvas.rows)
    count[0] += max(excess, 0)
    rows = {row.label: n for row, n in zip(Row, count, strict=True) if n or row is Row.NOTHING}
    copied = frozenset(row.label for row in COPIED)
    return FileLedger(rows, copied, decisions_of(comparison, made))


def _counted(rows: U8) -> list[int]:
    """How often each number of a row is there. Block by block: they are widened to be counted."""
    blocks = range(0, len(rows), BLOCK_LEN)
    counts = [np.bincount(rows[at : at + BLOCK_LEN], minlength=len(Row)) for at in blocks]
    return [sum(column) for column in zip(*(c.tolist() for c in counts), strict=True)]


def decisions_of(comparison: Comparison, made: Reproduction) -> dict[str, int]:
    """How many decisions of each kind there are."""
    found = Counter(f"sites and filler: {change.form.value}" for change in made.changes)
    records = [body.record for body in comparison.bodies.bodies]
    found["records"] = len(records)
    found["thunks of records"] = sum(r.call_off == FINAL_TRANSLATION for r in records)
    found["windows out of line"] = len(comparison.manifest.windows)
    found["reasons of what stays native"] = len(comparison.manifest.native)
    found["branches to the runtime"] = len(comparison.redirect)
    found["calls in thunks"] = comparison.report.counts["thunk calls"]
    found["length of the shift"] = 1
    return {kind: count for kind, count in sorted(found.items()) if count}

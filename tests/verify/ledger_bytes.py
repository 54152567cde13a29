# SPDX-License-Identifier: MIT
"""Is each changed byte of a rewritten vmlinux refused, whatever row of the ledger it is in?

`python -m tests.verify.ledger_bytes ORIGINAL OUTPUT` prints the ledger and draws bytes of each row.
A proof of each change would take days, so a change is judged by the cheapest way that is exact:

- Nothing that the proof takes from the output is another: then the expected file is that of the
  honest output, and the byte is compared with it.
- Code, records, tables, symbols: many changes share a file, and findings have to name each
  (ledger_together).
- The manifest's expected bytes, and what the note for restore gives, are made anew.
- Headers, and whatever is left: the proof, which ends at the first finding (adversarial.judge).

`--whole N` runs the whole proof as it is for N of the changes of each row besides.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np

from tests.verify.adversarial.judge import _facts_of_file, quick, refusal
from tests.verify.ledger_together import ByteChange, Parts, unnamed
from vmipatch.errors import VmipatchError
from vmipatch.image.elf import ElfImage
from vmipatch.image.relocations import Relocations
from vmipatch.image.trim import without_debug
from vmipatch.verify.static import StaticFinding, check, check_static, verdict
from vmipatch.verify.static.added import check_added_words, check_thunk_calls
from vmipatch.verify.static.comparison import Check, Comparison, Inputs
from vmipatch.verify.static.fallback import check_fallback
from vmipatch.verify.static.manifest import read_manifest
from vmipatch.verify.static.reproduce import manifest as making
from vmipatch.verify.static.reproduce.check import differences
from vmipatch.verify.static.reproduce.decisions import changes_of
from vmipatch.verify.static.reproduce.layout import layout
from vmipatch.verify.static.reproduce.manifest import manifest_bytes
from vmipatch.verify.static.reproduce.place import Reproduction
from vmipatch.verify.static.reproduce.reproduce import reproduce
from vmipatch.verify.static.reproduce.rows import NUMBERS, Row
from vmipatch.verify.static.sealed import check_runtime
from vmipatch.verify.static.thunks import check_thunks
from vmipatch.verify.static.translations import check_translations
from vmipatch.verify.static.verdict import Report
from vmipatch.verify.static.way_back import check_way_back

BYTES_OF_A_ROW = 200
OF_ADDED: tuple[Check[Comparison], ...] = (
    check_thunks, check_thunk_calls, check_added_words, check_translations, check_fallback
)  # fmt: skip
ADDED = (Row.THUNKS, Row.TRANSLATIONS, Row.THUNK_CALLS, Row.FALLBACK)
"""Rows that the comparison of the two files does not follow from: OF_ADDED judge them alone."""
CODE = (Row.CODE, Row.BRANCHES, Row.OPERANDS, Row.SITE_PADDING, Row.FILLER)
ENTRIES = (Row.SYMBOLS, Row.RELOCATIONS)
HEADERS = (Row.ELF_HEADER, Row.SEGMENT_HEADERS, Row.SECTION_HEADERS, Row.SECTION_NAMES)
SLOW = ("check_readers", "check_origin")
"""Checks of two files that come last where one finding is enough."""


class LedgerPair:
    """A pair whose output is the expected file."""

    def __init__(self, original: ElfImage, output: ElfImage) -> None:
        self.original, self.output = without_debug(original), output
        report = Report(hex)
        manifest = read_manifest(output, report)
        self.comparison = Comparison.of(Inputs(self.original, output, manifest, report))
        check_runtime(self.comparison)
        assert not report.has_findings, report.verdict().findings
        self.made: Reproduction = reproduce(self.comparison)
        self.octets = np.frombuffer(output.data, np.uint8)
        self.parts = Parts(self.comparison)

    def changes(self, row: Row, count: int, dice: random.Random) -> Iterator[ByteChange]:
        """`count` changes of bytes of one row, or one of each byte if it has fewer."""
        offs = np.flatnonzero(self.made.canvas.rows == NUMBERS[row]).tolist()
        for off in dice.sample(offs, min(count, len(offs))):
            yield ByteChange(row, off, (int(self.octets[off]) + dice.randrange(1, 256)) & 0xFF)

    def data_with(self, *changes: ByteChange) -> bytes:
        """The file with changes."""
        data = bytearray(self.output.data)
        for change in changes:
            data[change.off] = change.value
        return bytes(data)

    def accepted(self, changes: Sequence[ByteChange]) -> list[ByteChange]:
        """Those that are not refused."""
        left: list[ByteChange] = []
        judges: dict[tuple[Row, ...], Callable[[Sequence[ByteChange]], list[ByteChange]]] = {
            HEADERS: list,
            CODE: self._unnamed_code,
            ENTRIES: self._unnamed_entries,
            ADDED: self._unnamed_added,
            (Row.RECORDS,): self._unnamed_code,
            (Row.MANIFEST,): self._unlike_manifest,
            (Row.NOTE,): self._way_back,
            (Row.RUNTIME,): self._equal,
        }
        for rows, judge in judges.items():
            left += judge([change for change in changes if change.row in rows])
        known = {row for rows in judges for row in rows}
        left += self._followed([change for change in changes if change.row not in known])
        return self._alone(left)

    def _equal(self, changes: Sequence[ByteChange]) -> list[ByteChange]:
        """Those that are as the expected file of the honest output has them."""
        canvas = self.made.canvas
        return [c for c in changes if not canvas.rows[c.off] or canvas.octets[c.off] == c.value]

    def _followed(self, changes: Sequence[ByteChange]) -> list[ByteChange]:
        """As `_equal`, but all, if any of them changes what the expected file follows from."""
        image = ElfImage.parse(self.data_with(*changes), self.output.name)
        inputs = self.comparison.inputs
        now = replace(inputs, output=image, manifest=read_manifest(image, Report(hex)))
        if _facts_of_file(now) == _facts_of_file(inputs):
            return self._equal(changes)
        half = len(changes) // 2
        if not half:
            return list(changes)
        return self._followed(changes[:half]) + self._followed(changes[half:])

    def _unnamed_entries(self, changes: Sequence[ByteChange]) -> list[ByteChange]:
        return self._unnamed_code([change for change in changes if self._is_read(change)])

    def _is_read(self, change: ByteChange) -> bool:
        """Whether symbols and relocations can be read, which the proof does first."""
        try:
            Relocations.of(ElfImage.parse(self.data_with(change), self.output.name))
        except VmipatchError:
            return False
        return True

    def _unnamed_code(self, changes: Sequence[ByteChange]) -> list[ByteChange]:
        return unnamed(self.output.data, changes, self.parts, self._all_findings)

    def _all_findings(self, data: bytes) -> Sequence[StaticFinding]:
        image = ElfImage.parse(data, self.output.name)
        with patch.object(verdict, "KEPT_OF_A_RULE", 100_000):
            return check_static(self.original, image).findings

    def _unnamed_added(self, changes: Sequence[ByteChange]) -> list[ByteChange]:
        return unnamed(self.output.data, changes, self.parts, self._findings_of_added)

    def _findings_of_added(self, data: bytes) -> Sequence[StaticFinding]:
        output = ElfImage.parse(data, self.output.name)
        report = Report(hex)
        inputs = replace(self.comparison.inputs, output=output, report=report)
        with patch.object(verdict, "KEPT_OF_A_RULE", 100_000):
            for judge in OF_ADDED:
                judge(replace(self.comparison, inputs=inputs))
        return report.verdict().findings

    def _unlike_manifest(self, changes: Sequence[ByteChange]) -> list[ByteChange]:
        """Those that cannot be read, or are not what the decisions in them give, are refused."""
        new, inputs = layout(self.comparison, changes_of(self.comparison)), self.comparison.inputs
        harmless, left = making._harmless(self.comparison), []
        with patch.object(making, "_harmless", lambda _: harmless):
            for change in changes:
                image, report = ElfImage.parse(self.data_with(change), "changed"), Report(hex)
                now = read_manifest(image, report)
                was = inputs.manifest
                if report.has_findings:
                    continue
                section = image.section_by_name[".vmi.manifest"]
                same = (now.shift_len, now.windows, now.start, now.keep) == (
                    was.shift_len, was.windows, was.start, was.keep)  # fmt: skip
                told = replace(inputs, output=image, manifest=now, report=report)
                made = manifest_bytes(replace(self.comparison, inputs=told), new) if same else b""
                if not same or made == image.section_bytes(section):
                    left.append(change)
        return left

    def _way_back(self, changes: Sequence[ByteChange]) -> list[ByteChange]:
        left = []
        for change in changes:
            report, changed = Report(hex), ElfImage.parse(self.data_with(change), "changed")
            check_way_back(self.original, changed, self.original.file_sha256, report)
            left += [] if report.has_findings else [change]
        return left

    def _alone(self, changes: Sequence[ByteChange]) -> list[ByteChange]:
        """Those that the proof accepts, each alone in a file."""
        of_files = sorted(check.OF_FILES, key=lambda each: each.run.__name__ in SLOW)
        with quick(self.original), patch.object(check, "OF_FILES", tuple(of_files)):
            if changes:
                assert refusal(self.original, self.output.data) is None
            return [c for c in changes if refusal(self.original, self.data_with(c)) is None]

    def is_refused(self, change: ByteChange) -> bool:
        """Whether a change is found."""
        return not self.accepted([change])

    def is_refuted(self, change: ByteChange) -> bool:
        """Whether the whole proof refuses a change, or calls the file damaged."""
        try:
            changed = ElfImage.parse(self.data_with(change), self.output.name)
            digest = self.original.file_sha256
            return not check_static(self.original, changed, original_sha256=digest).holds
        except VmipatchError:
            return True


def main() -> int:
    """Change bytes of every row; 1 if a change was accepted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("original", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--bytes", type=int, default=BYTES_OF_A_ROW, help="of each row")
    parser.add_argument("--whole", type=int, default=0, help="changes that the whole proof judges")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    original, output = (
        ElfImage.parse(path.read_bytes(), path.name) for path in (options.original, options.output)
    )
    victim, dice = LedgerPair(original, output), random.Random(options.seed)
    unlike = len(differences(victim.octets, victim.made))
    if unlike or len(victim.octets) != len(victim.made.canvas.octets):
        print(f"{unlike} bytes are not the expected ones: verify the pair first")
        return 1
    changes = [c for row in Row for c in victim.changes(row, options.bytes, dice)]
    accepted = victim.accepted(changes)
    for row in Row:
        mine = [change for change in changes if change.row is row]
        accepted += [c for c in mine[: options.whole] if not victim.is_refuted(c)]
        missed = {change for change in mine if change in accepted}
        size = int((victim.made.canvas.rows == NUMBERS[row]).sum())
        refused = len(mine) - len(missed)
        print(f"{size:10}  {row.label:40} {refused:4} of {len(mine)} changes refused", flush=True)
    for change in accepted:
        print(f"    accepted: {change}")
    print(f"seed {options.seed}: {len(changes)} changes, {len(accepted)} were accepted")
    return 1 if accepted else 0


if __name__ == "__main__":
    raise SystemExit(main())

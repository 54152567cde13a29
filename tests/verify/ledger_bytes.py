# SPDX-License-Identifier: MIT
"""Is each changed byte of a rewritten vmlinux refused, whatever row of the ledger it is in?

`python -m tests.verify.ledger_bytes ORIGINAL OUTPUT` prints the ledger and draws bytes of each row.
The expected file is built once, and a changed byte is compared with it; bytes of the rows that are
copied from the output are judged by the rules that stand for them. `--whole N` runs the whole proof
for N of the changes of each row, as the decisions are read from the output.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vmipatch.errors import VmipatchError
from vmipatch.image.elf import ElfImage
from vmipatch.image.trim import without_debug
from vmipatch.verify.static import check_static
from vmipatch.verify.static.added import check_added_words, check_thunk_calls
from vmipatch.verify.static.comparison import Comparison, Inputs
from vmipatch.verify.static.manifest import read_manifest
from vmipatch.verify.static.reproduce.check import differences
from vmipatch.verify.static.reproduce.place import Reproduction
from vmipatch.verify.static.reproduce.reproduce import reproduce
from vmipatch.verify.static.reproduce.rows import NUMBERS, Row
from vmipatch.verify.static.sealed import check_runtime
from vmipatch.verify.static.thunks import check_thunks
from vmipatch.verify.static.translations import check_translations
from vmipatch.verify.static.verdict import Report
from vmipatch.verify.static.way_back import check_way_back

BYTES_OF_A_ROW = 200
JUDGES: dict[Row, tuple[Callable[[Comparison], None], ...]] = {
    Row.THUNKS: (check_thunks, check_thunk_calls, check_added_words, check_translations),
}
"""The rules for rows that are copied from the output. The runtime is assembled once, and equal."""


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """One byte of the output is another."""

    row: Row
    off: int
    value: int

    def __str__(self) -> str:
        return f"{self.row.label}: {self.value:02x} at offset {self.off:#x}"


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

    def changes(self, row: Row, count: int, dice: random.Random) -> Iterator[Change]:
        """`count` changes of bytes of one row, or one of each byte if it has fewer."""
        offs = np.flatnonzero(self.made.canvas.rows == NUMBERS[row]).tolist()
        for off in dice.sample(offs, min(count, len(offs))):
            yield Change(row, off, (int(self.octets[off]) + dice.randrange(1, 256)) & 0xFF)

    def data_with(self, change: Change) -> bytes:
        """The file with a change."""
        data = bytearray(self.output.data)
        data[change.off] = change.value
        return bytes(data)

    def is_refused(self, change: Change) -> bool:
        """Whether the comparison, or the rule that stands for it, finds a change."""
        data = self.data_with(change)
        if change.row is Row.NOTE:
            return self._is_way_back_refused(data)
        judges = JUDGES.get(change.row, ())
        if not judges:
            return bool(len(differences(np.frombuffer(data, np.uint8), self.made)))
        output = ElfImage.parse(data, self.output.name)
        report = Report(hex)
        inputs = replace(self.comparison.inputs, output=output, report=report)
        for judge in judges:
            judge(replace(self.comparison, inputs=inputs))
        return report.has_findings

    def _is_way_back_refused(self, data: bytes) -> bool:
        report = Report(hex)
        changed = ElfImage.parse(data, self.output.name)
        check_way_back(self.original, changed, self.original.file_sha256, report)
        return report.has_findings

    def is_refuted(self, change: Change) -> bool:
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
    accepted = [c for row in Row for c in _try(victim, row, dice, options.bytes, options.whole)]
    print(f"seed {options.seed}: {len(accepted)} changes were accepted")
    return 1 if accepted else 0


def _try(
    victim: LedgerPair, row: Row, dice: random.Random, count: int, whole: int
) -> Iterator[Change]:
    """The changes of one row that are accepted; prints a line of the ledger."""
    changes = list(victim.changes(row, count, dice))
    missed = [c for c in changes if not victim.is_refused(c)]
    missed += [c for c in changes[:whole] if c not in missed and not victim.is_refuted(c)]
    size = int((victim.made.canvas.rows == NUMBERS[row]).sum())
    refused = len(changes) - len(missed)
    print(f"{size:10}  {row.label:40} {refused:4} of {len(changes)} changes refused", flush=True)
    for change in missed:
        print(f"    accepted: {change}")
    yield from missed


if __name__ == "__main__":
    raise SystemExit(main())

# SPDX-License-Identifier: MIT
"""What became of one file of a tree?"""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from vmipatch.errors import VmipatchError
    from vmipatch.scan import ScanResult
    from vmipatch.verify.static import StaticVerdict


class FileOutcome(enum.StrEnum):
    """The outcome of a job for one file."""

    REWRITTEN = "rewritten"
    UNTOUCHED = "untouched"  # a module in which nothing had to be done
    COPIED = "copied"  # whatever is not a module; of `verify`: a link that is the same
    RESTORED = "restored"
    FAILED = "failed"  # left out
    PROVEN = "proven"
    REFUTED = "refuted"


WRONG = frozenset({FileOutcome.FAILED, FileOutcome.REFUTED})


@dataclass(frozen=True, slots=True)
class Left:
    """How many sensitive instructions of a module stay as they are, by reason."""

    reasons: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, scanned: ScanResult) -> Left:
        """Of all sites that stay native."""
        from vmipatch.scan import Disposition

        native = (Disposition.NATIVE_TRAPPING, Disposition.NATIVE_UNPRIVILEGED)
        reasons = Counter(s.reason.value for s in scanned.sites if s.disposition in native)
        return cls(tuple(sorted(reasons.items())))

    @property
    def count(self) -> int:
        """All of them."""
        return sum(count for _, count in self.reasons)


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a tree, and what became of it."""

    path: str
    """Relative to the tree."""
    outcome: FileOutcome
    """Rewritten, copied, failed, and so on."""
    sites: int = 0
    """How many of its sites were rewritten, or verified."""
    left: Left = Left()
    """Those that stay native, by reason."""
    added_len: int = 0
    """Bytes of padding that its sites got."""
    signature_len: int = 0
    """Bytes of a signature that was taken off."""
    gives: str = ""
    """The label of the Gives that `restore` gives back of it."""
    message: str = ""
    """The error, where there was one; findings, one a line."""
    exit_code: int = 0
    """Of the error, where there was one."""
    input_sha256: str = ""
    """Of the file that was read, in hexadecimal."""
    output_sha256: str = ""
    """Of the file that was written; empty if none was."""
    static: StaticVerdict | None = field(default=None, repr=False, compare=False)
    """The proof, of a module that was verified."""

    @classmethod
    def failed(cls, path: str, error: VmipatchError) -> Self:
        """The entry of a file for which `error` was raised."""
        return cls(path, FileOutcome.FAILED, message=str(error), exit_code=int(error.exit_code))

    @property
    def is_wrong(self) -> bool:
        """Whether the file failed or was refuted."""
        return self.outcome in WRONG

# SPDX-License-Identifier: MIT
"""By what is each byte of a proven file explained, and how much was the proof told?"""

from __future__ import annotations

from dataclasses import dataclass, field

UNEXPLAINED_BYTES = "unexplained"


@dataclass(frozen=True, slots=True)
class FileLedger:
    """Each byte of the file is counted in one row."""

    rows: dict[str, int] = field(hash=False)
    """Bytes by row; the row of unexplained bytes is always there."""
    copied: frozenset[str]
    """Rows that are not built anew: they are compared or executed by a rule of their own."""
    decisions: dict[str, int] = field(hash=False)
    """How many addresses, lengths and members of closed lists of each kind the file follows."""

    @property
    def file_len(self) -> int:
        """Bytes of the file."""
        return sum(self.rows.values())

    @property
    def unexplained(self) -> int:
        """Bytes that no row explains."""
        return self.rows[UNEXPLAINED_BYTES]

    @property
    def decided(self) -> int:
        """How many decisions there are."""
        return sum(self.decisions.values())

    @property
    def groups(self) -> dict[str, int]:
        """Bytes by what rows have in common: the part of their names before a colon."""
        found: dict[str, int] = {}
        for row, count in self.rows.items():
            name = row.partition(":")[0]
            found[name] = found.get(name, 0) + count
        return found

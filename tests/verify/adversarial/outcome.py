# SPDX-License-Identifier: MIT
"""What became of one deliberate change, and where is it kept?"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REFUSED, FREE_BY_TABLE, ACCEPTED, FAILED = "refused", "free", "accepted", "failed"


@dataclass(frozen=True, slots=True)
class ChangeOutcome:
    """The result of one change."""

    file: str
    seed: int
    kind: str
    target: Any
    round: int
    what: str
    result: str
    by: str
    """The rule that is broken first, UNREADABLE, the row of the table, or what went wrong."""

    @property
    def key(self) -> tuple[Any, ...]:
        """Of which planned change this is the outcome."""
        return self.file, self.seed, self.kind, repr(tuple(self.target)), self.round


def read(state: Path) -> list[ChangeOutcome]:
    """The outcomes so far."""
    if not state.exists():
        return []
    return [ChangeOutcome(**json.loads(line)) for line in state.read_text().splitlines()]

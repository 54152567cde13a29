# SPDX-License-Identifier: MIT
"""Which cases are kept? Those that once were findings, and some of each kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.fuzz.judge import Case

FILE = Path(__file__).with_name("corpus.json")


def row_of(case: Case) -> dict[str, Any]:
    """A case as JSON has it."""
    changes = [[at, octets.hex()] for at, octets in case.changes]
    return {"target": case.target, "base": case.base, "seed": case.seed, "changes": changes}


def case_from(row: dict[str, Any]) -> Case:
    """The case of a row."""
    changes = tuple((at, bytes.fromhex(octets)) for at, octets in row["changes"])
    return Case(row["target"], row["base"], row["seed"], changes)


KEPT = [case_from(row) for row in json.loads(FILE.read_text())]

# SPDX-License-Identifier: MIT
"""What do tests of the corpus work on? Records with the steps that a test names."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from tests.corpus.state import CorpusStep, Record, Result, StepOutcome, steps_of
from tests.corpus.table import InputMode

SITES = {"rewritten": 100, "native-trapping": 5, "harmless": 7}
NATIVE = {"calls firmware, on the firmware's terms": 5}
FIGURES: Mapping[str, Any] = {
    "sites": SITES,
    "treatments": {"relinked": 100, "native": 12},
    "native": NATIVE,
    "lost": [],
    "gives": "input",
}


def record(
    changed: Mapping[CorpusStep, Result] = MappingProxyType({}),
    mode: InputMode = InputMode.TWIN,
    name: str = "some",
    without: tuple[CorpusStep, ...] = (),
) -> Record:
    """A record in which every step holds, but for those that are changed or left out."""
    known = {step: Result(StepOutcome.HOLDS) for step in steps_of(mode) if step not in without}
    known[CorpusStep.REWRITE] = Result(StepOutcome.HOLDS, cpu_s=10.0, figures=FIGURES)
    known |= changed
    return Record(name, mode, "ab" * 32, {"version": "6.1.0", "compiler": "", "kind": "UP"}, known)


def rewritten(**figures: Any) -> Mapping[CorpusStep, Result]:
    """A rewrite that held, with these figures instead of the usual ones."""
    return {
        CorpusStep.REWRITE: Result(StepOutcome.HOLDS, cpu_s=10.0, figures={**FIGURES, **figures})
    }

# SPDX-License-Identifier: MIT
"""What is known already? Results of steps, kept by checksum of product and kernel.

A file CACHE/results/PRODUCT/ROW.MODE.json holds what this product did with this kernel. A result of
another product, or of a kernel that has changed, does not count.
"""

from __future__ import annotations

import enum
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.corpus.places import CorpusKernel, tree_digest
from tests.corpus.table import InputMode

ROOT = Path(__file__).parents[2]
PRODUCT_LEN = 16
"""Digits of a checksum that name a directory."""


class CorpusStep(enum.Enum):
    """The steps of a kernel, in this order."""

    SCAN = "scan"
    REWRITE = "rewrite"
    REPEAT = "same twice"
    PROOF = "proof"
    RESTORE = "restore"
    ORIGINAL = "original boots"
    BOOT = "boots"
    ROM = "native ROM"
    PARAVIRT = "hypervisor"
    VERIFY = "verify"


MODULE_STEPS = (CorpusStep.REWRITE, CorpusStep.REPEAT, CorpusStep.PROOF, CorpusStep.RESTORE)
"""Of a tree of modules."""


class StepOutcome(enum.Enum):
    """How a step ended."""

    HOLDS = "holds"
    REFUSED = "refused"
    """The command said that it does not understand the file, or does not support it."""
    FAILS = "fails"
    LEFT_OUT = "left out"
    """There was nothing to do it with; the message says why."""


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one step of one kernel."""

    outcome: StepOutcome
    message: str = ""
    cpu_s: float = 0.0
    peak_mib: int = 0
    figures: Mapping[str, Any] = field(default_factory=dict)
    """Counts of the step, as its JSON report has them."""

    @property
    def holds(self) -> bool:
        """Whether the step did what it should."""
        return self.outcome is StepOutcome.HOLDS


@dataclass(frozen=True, slots=True)
class Subject:
    """A kernel and the way in which it is given to vmipatch."""

    kernel: CorpusKernel
    mode: InputMode

    @property
    def steps(self) -> tuple[CorpusStep, ...]:
        """The steps to do with it."""
        return steps_of(self.mode)

    @property
    def checksum(self) -> str:
        """Of what vmipatch is given."""
        if self.mode is InputMode.MODULES:
            assert self.kernel.modules is not None
            return tree_digest(self.kernel.modules)
        return self.kernel.checksum


def product_checksum() -> str:
    """SHA-256 over the files of the package vmipatch, as they are now."""
    return tree_digest(ROOT / "vmipatch")


@dataclass(frozen=True, slots=True)
class Record:
    """The results known of one kernel in one mode."""

    name: str
    mode: InputMode
    checksum: str
    facts: Mapping[str, str]
    """version, compiler, kind."""
    known: Mapping[CorpusStep, Result]

    @property
    def steps(self) -> tuple[CorpusStep, ...]:
        """The steps to do with it."""
        return steps_of(self.mode)


def steps_of(mode: InputMode) -> tuple[CorpusStep, ...]:
    """The steps to do with a kernel that is given in this way."""
    return MODULE_STEPS if mode is InputMode.MODULES else tuple(CorpusStep)


def records(cache: Path, product: str, prefix: str) -> Iterator[Record]:
    """This product's records of kernels whose names begin so, in order."""
    for file in sorted((cache / "results" / product[:PRODUCT_LEN]).glob("*.json")):
        kept = json.loads(file.read_text())
        if kept["product"] == product and kept["name"].startswith(prefix):
            yield _record(kept)


class Results:
    """The results of one product for one kernel in one mode; each is on the disk at once."""

    def __init__(self, cache: Path, product: str, subject: Subject) -> None:
        directory = cache / "results" / product[:PRODUCT_LEN]
        self._file = (
            directory / f"{subject.kernel.name.replace('/', '+')}.{subject.mode.value}.json"
        )
        self._heads = {
            "product": product,
            "name": subject.kernel.name,
            "mode": subject.mode.value,
            "kernel": subject.checksum,
        }
        self._facts = subject.kernel.facts
        self._steps = self._read()

    def get(self, step: CorpusStep) -> Result | None:
        """The known result of a step."""
        return self._steps.get(step)

    def put(self, step: CorpusStep, result: Result) -> None:
        """Keep a result."""
        self._steps[step] = result
        text = json.dumps(self._document(), indent=1, sort_keys=True)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        complete = self._file.with_suffix(".new")
        complete.write_text(text + "\n")
        os.replace(complete, self._file)

    @property
    def record(self) -> Record:
        """All of it, as it is now."""
        return _record(self._document())

    def _document(self) -> dict[str, Any]:
        steps = {step.name.lower(): _plain(result) for step, result in self._steps.items()}
        return {**self._heads, "facts": self._facts, "steps": steps}

    def _read(self) -> dict[CorpusStep, Result]:
        if not self._file.is_file():
            return {}
        kept = json.loads(self._file.read_text())
        if any(kept[key] != value for key, value in self._heads.items()):
            return {}
        return _known(kept)


def _record(kept: dict[str, Any]) -> Record:
    mode = InputMode(kept["mode"])
    return Record(kept["name"], mode, kept["kernel"], kept["facts"], _known(kept))


def _known(kept: dict[str, Any]) -> dict[CorpusStep, Result]:
    return {CorpusStep[name.upper()]: _result(plain) for name, plain in kept["steps"].items()}


def _plain(result: Result) -> dict[str, Any]:
    return asdict(result) | {"outcome": result.outcome.name.lower()}


def _result(plain: dict[str, Any]) -> Result:
    return Result(**{**plain, "outcome": StepOutcome[plain["outcome"].upper()]})

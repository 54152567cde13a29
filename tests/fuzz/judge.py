# SPDX-License-Identifier: MIT
"""Is a changed file read, refused truly, or is it a finding?"""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from tests.fuzz.bases import BASES, output
from tests.fuzz.edits import Edit, applied, edits
from tests.verify.adversarial.free import free_row
from vmipatch.errors import ExitCode, VmipatchError
from vmipatch.files.kernel import KernelFile
from vmipatch.files.module import ModuleFile
from vmipatch.files.open import open_any
from vmipatch.image.elf import ElfImage
from vmipatch.verify.static import check_static

REFUSED = (ExitCode.INPUT, ExitCode.ENVIRONMENT, ExitCode.USAGE)
MOST_S = 60
PROOF, FILES = "proof", "files"


@dataclass(frozen=True, slots=True)
class Case:
    """One changed file: all that it takes to make it again."""

    target: str
    base: str
    seed: str
    changes: tuple[Edit, ...]


def case_of(seed: str) -> Case:
    """The case that belongs to a seed."""
    rng = random.Random(seed)
    target = rng.choice((FILES, FILES, PROOF))
    base = "output" if target == PROOF else rng.choice(sorted(BASES))
    return Case(target, base, seed, tuple(edits(BASES[base](), rng)))


def fault(case: Case, changes: Sequence[Edit] | None = None) -> str | None:
    """The way in which the case ended wrongly; None if it did not."""
    data = BASES[case.base]()
    changed = applied(data, case.changes if changes is None else changes)
    begun = time.process_time()
    try:
        found = (_proof if case.target == PROOF else _files)(data, changed)
    except VmipatchError as error:
        found = None if error.exit_code in REFUSED else f"{type(error).__name__}: {error}"
    except Exception:
        found = traceback.format_exc(limit=-3)
    took = time.process_time() - begun
    return found or (f"it took {took:.0f} s" if took > MOST_S else None)


def _files(_: bytes, changed: bytes) -> str | None:
    """Read it, list its sites, rewrite it."""
    file = open_any(changed)
    assert isinstance(file, KernelFile | ModuleFile)
    file.scan()
    file.rewrite()
    return None


def _proof(sound: bytes, changed: bytes) -> str | None:
    """Each change has to be found, but one that the closed table of the campaign allows."""
    if changed == sound:
        return None
    original, _ = output()
    image = ElfImage.parse(changed, "changed")
    if not check_static(original, image, original_sha256=original.file_sha256).holds:
        return None
    if free_row(ElfImage.parse(sound), changed) is not None:
        return None
    at = next(at for at, (a, b) in enumerate(zip(sound, changed, strict=True)) if a != b)
    return f"the proof accepts a change at {at:#x}"


def smallest(case: Case) -> Case:
    """The case with as few of its changes as still have a fault."""
    kept = list(case.changes)
    for change in case.changes:
        fewer = [each for each in kept if each != change]
        if fewer and fault(case, fewer):
            kept = fewer
    return Case(case.target, case.base, case.seed, tuple(kept))

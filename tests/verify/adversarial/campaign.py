# SPDX-License-Identifier: MIT
"""Is every deliberate change refused? `python -m tests.verify.adversarial` counts, on a page.

One line of the state file for each change that was judged: a campaign that was stopped goes on.
"""

from __future__ import annotations

import json
import random
import traceback
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Protocol
from unittest.mock import patch

from tests.support import kernels
from tests.verify.adversarial import of_bzimage
from tests.verify.adversarial.free import free_row
from tests.verify.adversarial.judge import UNREADABLE, FirstFinding, Refused, quick, refusal
from tests.verify.adversarial.kinds import NotHere
from tests.verify.adversarial.outcome import (
    ACCEPTED,
    FAILED,
    FREE_BY_TABLE,
    REFUSED,
    ChangeOutcome,
    read,
)
from tests.verify.adversarial.plan import Planned, changed, planned
from tests.verify.bzimage.flips import made_once, shipped_files
from vmipatch.errors import VmipatchError
from vmipatch.files.open import open_kernel
from vmipatch.image.elf import ElfImage
from vmipatch.image.trim import without_debug
from vmipatch.rewrite import rewrite
from vmipatch.verify.static import check as static
from vmipatch.verify.static.bzimage import check as bzimage


class Victim(Protocol):
    """An honest output that is changed."""

    name: str

    def planned(self, seed: int, count: int) -> list[Planned]:
        """The changes that are to be made."""

    def judged(self, one: Planned, seed: int) -> tuple[str, str, str]:
        """The change in words, its result, and the rule. Raises NotHere."""


class Vmlinux:
    """A rewritten vmlinux."""

    def __init__(self, name: str, original: ElfImage) -> None:
        self.name, self._original = name, original
        self._output = ElfImage.parse(rewrite(original).data, "output")
        self._stack = ExitStack()
        self._stack.enter_context(quick(original))
        self._note = self._output.section_bytes(self._output.section_by_name[".vmi.restore"])
        found = refusal(original, self._output.data)
        assert found is None, f"the honest output is refused: {found}"

    def planned(self, seed: int, count: int) -> list[Planned]:
        """As Victim has it."""
        return planned(self._output, seed, count)

    def judged(self, one: Planned, seed: int) -> tuple[str, str, str]:
        """As Victim has it."""
        data, what = self.changed(one, seed)
        by = refusal(self._original, data, self._note)
        if by is not None:
            return what, REFUSED, by
        row = free_row(self._output, data)
        return what, FREE_BY_TABLE if row else ACCEPTED, row or ""

    def changed(self, one: Planned, seed: int) -> tuple[bytes, str]:
        """The file after a change, and what was changed. Raises NotHere."""
        return changed(self._output, one, seed)

    def close(self) -> None:
        """Let the proof be as it was."""
        self._stack.close()


class Vmlinuz:
    """A rewritten bzImage."""

    def __init__(self, name: str, original: Path, debug: Path) -> None:
        self.name = name
        made = open_kernel(original).rewrite(debug=open_kernel(debug))
        assert made.packed is not None
        self._whole = of_bzimage.Whole(shipped_files(original, debug, made.data))
        self._stack = ExitStack()
        self._stack.enter_context(quick(self._whole.shipped.linked, is_file=False))
        self._stack.enter_context(made_once(self._whole.shipped))
        self._stack.enter_context(patch.object(bzimage, "Report", FirstFinding))
        found = self._refusal(made.data)
        assert found is None, f"the honest output is refused: {found}"

    def planned(self, seed: int, count: int) -> list[Planned]:
        """As Victim has it."""
        return planned(self._whole, seed, count, of_bzimage.OF_BZIMAGE)

    def judged(self, one: Planned, seed: int) -> tuple[str, str, str]:
        """As Victim has it."""
        dice = random.Random(one.seed(seed))
        data, what = of_bzimage.changed(self._whole, one.kind, one.target, dice)
        by = self._refusal(data)
        return what, ACCEPTED if by is None else REFUSED, by or ""

    def _refusal(self, data: bytes) -> str | None:
        """As `refusal`; of the kernel inside, too, if it is not the honest one."""
        shipped = replace(self._whole.shipped, output=data)
        try:
            verdict = bzimage.check_bzimage(shipped)
            if not verdict.holds:  # what was found while it was read
                return next(iter(verdict.totals)).number
            if shipped.witness is not None:
                static.check_static(shipped.linked, shipped.witness, is_witness=True)
        except Refused as refused:
            return refused.rule.number
        except VmipatchError:
            return UNREADABLE
        return None

    def close(self) -> None:
        """Let the proof be as it was."""
        self._stack.close()


def victim(name: str) -> Vmlinux | Vmlinuz:
    """A test kernel by its name, its bzImage as NAME:bzImage, a Debian kernel as that alone."""
    kernel, _, form = name.partition("/")
    if kernel in kernels.DISTRO_FLAVOURS:
        distro = kernels.find_distro(kernel)
        assert distro is not None, f"run python -m tests.kernels {kernel}"
        return Vmlinuz(name, distro.vmlinuz, distro.vmlinux)
    built = kernels.find(kernel)
    assert built is not None, f"run python -m tests.kernels {kernel}"
    if form:
        return Vmlinuz(name, built.vmlinux.with_name(form), built.vmlinux)
    image = ElfImage.parse(built.vmlinux.read_bytes(), kernel)
    return Vmlinux(name, without_debug(image))


def outcome_of(hurt: Victim, one: Planned, seed: int) -> ChangeOutcome | None:
    """The outcome of one change; None if there is nothing to change."""
    try:
        what, result, by = hurt.judged(one, seed)
    except NotHere:
        return None
    except Exception:
        what, result, by = "", FAILED, traceback.format_exc(limit=-3)
    return ChangeOutcome(hurt.name, seed, one.kind, list(one.target), one.round, what, result, by)


def campaign(name: str, seed: int, count: int, state: Path) -> Generator[ChangeOutcome, None, None]:
    """The changes of one file that `state` has no outcome of; each outcome goes there at once."""
    known = {outcome.key for outcome in read(state)}
    hurt = victim(name)
    try:
        with state.open("a") as lines:
            for one in hurt.planned(seed, count):
                key = (name, seed, one.kind, repr(tuple(one.target)), one.round)
                outcome = None if key in known else outcome_of(hurt, one, seed)
                if outcome is not None:
                    lines.write(json.dumps(asdict(outcome)) + "\n")
                    lines.flush()
                    yield outcome
    finally:
        hurt.close()


def run(job: tuple[str, int, int, Path]) -> str:
    """A campaign of one file: its name, the seed, how many changes, the state file."""
    name, seed, count, state = job
    for number, outcome in enumerate(campaign(name, seed, count, state), 1):
        if outcome.result in (ACCEPTED, FAILED):
            print(f"{outcome.result}: {outcome}", flush=True)
        if not number % 50:
            print(f"{name}: {number}", flush=True)
    return name

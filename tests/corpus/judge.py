# SPDX-License-Identifier: MIT
"""Is a row green? Every step holds, and no site is left native but for a reason of a closed list.

Or vmipatch refuses the kernel with the words that its row expects.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from tests.corpus.state import CorpusStep, Record, Result, StepOutcome
from tests.corpus.table import InputMode
from vmipatch.scan.site import Reason

NATIVE_WITH_RELOCATIONS = frozenset(
    {
        Reason.NO_CALL,
        Reason.NEVER_A_CALL,
        Reason.BEFORE_PAGING,
        Reason.ALTERNATIVE,
        Reason.REPLACEMENT,
        Reason.COPIED,
        Reason.FIXED_STRIDE,
        Reason.FIRMWARE,
        Reason.FIXUP,
        Reason.SHORT_BRANCH,
    }
)
"""Why a site may stay native where relocations and symbols tell all."""

LEAST_SHARE = 0.95
"""Of the sites that are rewritten with the debug twin, how many have to be without it."""
MOST_TIME = 1.5
"""How much more CPU time Debian 11's 5.10 alone may take than Debian 12's 6.1."""
TIMED = ("debian11-686", "debian12-686")


class Colour(enum.Enum):
    """The result of a row."""

    GREEN = "green"
    REFUSED = "refused"
    """With the reason that is true of this kernel."""
    RED = "red"
    OPEN = "open"
    """Steps are missing."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A colour and why it is not green."""

    colour: Colour
    why: str = ""


Known = Mapping[CorpusStep, Result]
"""The results known of one subject."""


def verdict(record: Record, expected: str = "", twin: Known | None = None) -> Judgement:
    """The verdict on a kernel.

    `expected`: the words with which it is rightly refused, empty if it is not. `twin`: what is
    known of the same kernel with its debug twin, if there is one.
    """
    known = record.known
    rewrite = known.get(CorpusStep.REWRITE)
    if expected and rewrite is not None:
        return _refusal(known, rewrite, expected)
    for step in record.steps:
        result = known.get(step)
        if result is not None and not result.holds:
            return Judgement(Colour.RED, f"{step.value}: {result.message}")
    missing = [step.value for step in record.steps if step not in known]
    if len(missing) == len(record.steps):
        return Judgement(Colour.OPEN, "not tried")
    if rewrite is not None and (wrong := _left_native(record.mode, rewrite, twin)):
        return Judgement(Colour.RED, wrong)
    if missing:
        return Judgement(Colour.OPEN, f"not done: {', '.join(missing)}")
    return Judgement(Colour.GREEN)


def time_ratio(first: Known, second: Known) -> float | None:
    """CPU time of one `rewrite` by that of another, None if one was not measured."""
    times = [known[CorpusStep.REWRITE] for known in (first, second) if CorpusStep.REWRITE in known]
    if len(times) < 2 or not all(each.holds for each in times):
        return None
    return times[0].cpu_s / times[1].cpu_s


def _refusal(known: Known, rewrite: Result, expected: str) -> Judgement:
    scan = known.get(CorpusStep.SCAN)
    if scan is not None and not scan.holds:
        return Judgement(Colour.RED, f"scan: {scan.message}")
    if rewrite.outcome is StepOutcome.REFUSED and expected in rewrite.message:
        return Judgement(Colour.REFUSED, rewrite.message)
    return Judgement(Colour.RED, f"should be refused for {expected}: {rewrite.message or 'is not'}")


def _left_native(mode: InputMode, rewrite: Result, twin: Known | None) -> str:
    """The fault in how much is left native; empty if there are none."""
    if mode in (InputMode.TWIN, InputMode.LINKED):
        allowed = {reason.value for reason in NATIVE_WITH_RELOCATIONS}
        if others := sorted(rewrite.figures["native"].keys() - allowed):
            return f"left native: {'; '.join(others)}"
    if mode is InputMode.ALONE and twin is not None:
        other = twin.get(CorpusStep.REWRITE)
        if other is not None and other.holds:
            done, possible = (each.figures["sites"]["rewritten"] for each in (rewrite, other))
            if done < LEAST_SHARE * possible:
                return f"only {done} of {possible} sites are rewritten alone"
    return ""

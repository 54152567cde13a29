# SPDX-License-Identifier: MIT
"""Is a row green only if it may be?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.corpus.judge import Colour, Judgement, time_ratio, verdict
from tests.corpus.samples import record, rewritten
from tests.corpus.state import CorpusStep, Record, Result, StepOutcome
from tests.corpus.table import InputMode
from vmipatch.scan.site import Reason

WORDS = "CONFIG_KALLSYMS"
REFUSED = Result(StepOutcome.REFUSED, f"vmlinuz: no symbols (build it with {WORDS}=y)")


@pytest.mark.parametrize("mode", InputMode)
def test_row_is_green_if_every_step_holds(mode: InputMode) -> None:
    assert verdict(record(mode=mode)) == Judgement(Colour.GREEN)


@pytest.mark.parametrize("step", CorpusStep)
@pytest.mark.parametrize("outcome", [StepOutcome.FAILS, StepOutcome.REFUSED, StepOutcome.LEFT_OUT])
def test_one_step_that_does_not_hold_makes_it_red(step: CorpusStep, outcome: StepOutcome) -> None:
    assert verdict(record({step: Result(outcome, "why")})) == Judgement(
        Colour.RED, f"{step.value}: why"
    )


def test_missing_step_leaves_it_open() -> None:
    judged = verdict(record(without=(CorpusStep.VERIFY,)))
    assert judged == Judgement(Colour.OPEN, "not done: verify")


def test_kernel_that_was_not_tried_is_open() -> None:
    untried = replace(record(), known={})
    assert verdict(untried) == Judgement(Colour.OPEN, "not tried")


@pytest.mark.parametrize("mode", [InputMode.TWIN, InputMode.LINKED])
@pytest.mark.parametrize("reason", [Reason.NO_ROOM, Reason.FIXED, Reason.NO_TRANSLATION])
def test_site_left_native_for_another_reason_makes_it_red(mode: InputMode, reason: Reason) -> None:
    judged = verdict(record(rewritten(native={reason.value: 1}), mode))
    assert judged == Judgement(Colour.RED, f"left native: {reason.value}")
    alone = record(rewritten(native={reason.value: 1}), InputMode.ALONE)
    assert verdict(alone).colour is Colour.GREEN


@pytest.mark.parametrize(("done", "colour"), [(95, Colour.GREEN), (94, Colour.RED)])
def test_alone_has_to_get_nearly_what_the_twin_gets(done: int, colour: Colour) -> None:
    alone = record(rewritten(sites={"rewritten": done}), InputMode.ALONE)
    assert verdict(alone, twin=record().known).colour is colour


def test_kernel_is_rightly_refused_with_the_words_of_its_row() -> None:
    refused = record({CorpusStep.REWRITE: REFUSED}, without=(CorpusStep.PROOF,))
    assert verdict(refused, WORDS) == Judgement(Colour.REFUSED, REFUSED.message)


@pytest.mark.parametrize(
    "wrong",
    [
        record({CorpusStep.REWRITE: Result(StepOutcome.REFUSED, "the file is damaged")}),
        record({CorpusStep.REWRITE: Result(StepOutcome.FAILS, f"{WORDS}: internal error")}),
        record(),
        record({CorpusStep.REWRITE: REFUSED, CorpusStep.SCAN: Result(StepOutcome.REFUSED, "no")}),
    ],
    ids=["other words", "crash", "not refused", "cannot be scanned either"],
)
def test_refusal_is_not_right_otherwise(wrong: Record) -> None:
    assert verdict(wrong, WORDS).colour is Colour.RED


def test_times_are_compared_where_both_were_measured() -> None:
    first, second = record({CorpusStep.REWRITE: Result(StepOutcome.HOLDS, cpu_s=30.0)}), record()
    assert time_ratio(first.known, second.known) == 3.0
    assert time_ratio(record({CorpusStep.REWRITE: REFUSED}).known, second.known) is None
    assert time_ratio({}, second.known) is None

# SPDX-License-Identifier: MIT
"""Does the corpus take a kernel through its steps, once, and tell what was refused?

The test kernel tiny, as its build left it, and the steps that boot nothing.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import KernelFinder
from tests.corpus import runner, state
from tests.corpus.places import CorpusKernel
from tests.corpus.runner import StepPlan
from tests.corpus.state import CorpusStep, Results, StepOutcome, Subject
from tests.corpus.table import InputMode

CHEAP = (
    CorpusStep.SCAN,
    CorpusStep.REWRITE,
    CorpusStep.REPEAT,
    CorpusStep.PROOF,
    CorpusStep.RESTORE,
)

pytestmark = pytest.mark.kernels


@pytest.fixture
def plan(tmp_path: Path) -> StepPlan:
    return StepPlan(tmp_path, state.product_checksum(), CHEAP)


def run(plan: StepPlan, subject: Subject) -> list[str]:
    """The messages printed while a subject is taken through its steps."""
    said: list[str] = []
    runner.run(plan, [subject], 1, said.append)
    return said


def test_tiny_holds_and_is_not_tried_again(kernel: KernelFinder, plan: StepPlan) -> None:
    subject = Subject(CorpusKernel("tiny", None, kernel("tiny")), InputMode.LINKED)
    said = run(plan, subject)
    assert [text.split(": ")[1] for text in said] == [step.value for step in CHEAP]
    results = Results(plan.cache, plan.product, subject)
    assert all(result.holds for result in results.record.known.values()), said
    rewrite = results.get(CorpusStep.REWRITE)
    assert rewrite is not None
    assert rewrite.figures["sites"]["rewritten"] > 3000
    assert run(plan, subject) == []


def test_damaged_kernel_is_refused_and_nothing_more_is_done(
    kernel: KernelFinder, plan: StepPlan
) -> None:
    damaged = plan.cache / "vmlinux"
    data = bytearray(kernel("tiny").read_bytes())
    data[0x20:0x24] = b"\xff" * 4  # e_shoff: the section headers lie beyond the end
    damaged.write_bytes(data)
    subject = Subject(CorpusKernel("damaged", None, damaged), InputMode.LINKED)
    said = run(plan, subject)
    known = Results(plan.cache, plan.product, subject).record.known
    assert {step: result.outcome for step, result in known.items()} == {
        CorpusStep.SCAN: StepOutcome.REFUSED,
        CorpusStep.REWRITE: StepOutcome.REFUSED,
    }
    assert str(plan.cache) not in "".join(said)


def test_results_of_a_product_that_changes_meanwhile_are_not_kept(
    kernel: KernelFinder, plan: StepPlan
) -> None:
    subject = Subject(CorpusKernel("tiny", None, kernel("tiny")), InputMode.LINKED)
    before = StepPlan(plan.cache, "0" * 64, (CorpusStep.SCAN,))
    with pytest.raises(runner.ProductChanged):
        run(before, subject)
    assert not Results(plan.cache, before.product, subject).record.known

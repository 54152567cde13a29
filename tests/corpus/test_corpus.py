# SPDX-License-Identifier: MIT
"""Does the corpus take a kernel through its steps, once, and tell what was refused?

The test kernel tiny, as its build left it, and the steps that boot nothing.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import KernelFinder
from tests.corpus import runner, state
from tests.corpus.places import Kernel
from tests.corpus.runner import Plan
from tests.corpus.state import Outcome, Results, Step, Subject
from tests.corpus.table import Mode

CHEAP = (Step.SCAN, Step.REWRITE, Step.REPEAT, Step.PROOF, Step.RESTORE)

pytestmark = pytest.mark.kernels


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(tmp_path, state.product_checksum(), CHEAP)


def run(plan: Plan, subject: Subject) -> list[str]:
    """What is said while a subject is taken through its steps."""
    said: list[str] = []
    runner.run(plan, [subject], 1, said.append)
    return said


def test_tiny_holds_and_is_not_tried_again(kernel: KernelFinder, plan: Plan) -> None:
    subject = Subject(Kernel("tiny", None, kernel("tiny")), Mode.LINKED)
    said = run(plan, subject)
    assert [text.split(": ")[1] for text in said] == [step.value for step in CHEAP]
    results = Results(plan.cache, plan.product, subject)
    assert all(result.holds for result in results.record.known.values()), said
    rewrite = results.get(Step.REWRITE)
    assert rewrite is not None
    assert rewrite.figures["sites"]["rewritten"] > 3000
    assert run(plan, subject) == []


def test_damaged_kernel_is_refused_and_nothing_more_is_done(
    kernel: KernelFinder, plan: Plan
) -> None:
    damaged = plan.cache / "vmlinux"
    data = bytearray(kernel("tiny").read_bytes())
    data[0x20:0x24] = b"\xff" * 4  # e_shoff: the section headers lie behind the end
    damaged.write_bytes(data)
    subject = Subject(Kernel("damaged", None, damaged), Mode.LINKED)
    said = run(plan, subject)
    known = Results(plan.cache, plan.product, subject).record.known
    assert {step: result.outcome for step, result in known.items()} == {
        Step.SCAN: Outcome.REFUSED,
        Step.REWRITE: Outcome.REFUSED,
    }
    assert str(plan.cache) not in "".join(said)


def test_results_of_a_product_that_changes_meanwhile_are_not_kept(
    kernel: KernelFinder, plan: Plan
) -> None:
    subject = Subject(Kernel("tiny", None, kernel("tiny")), Mode.LINKED)
    before = Plan(plan.cache, "0" * 64, (Step.SCAN,))
    with pytest.raises(runner.ProductChanged):
        run(before, subject)
    assert not Results(plan.cache, before.product, subject).record.known

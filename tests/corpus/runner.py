# SPDX-License-Identifier: MIT
"""In which order is the corpus worked on? Subjects side by side, the steps of each in turn.

What is known is not done again. Outputs of a subject lie in the cache until its steps are done, so
that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.corpus import boots, steps
from tests.corpus.places import CorpusKernel
from tests.corpus.state import PRODUCT_LEN, CorpusStep, Result, Results, Subject, product_checksum
from tests.corpus.table import InputMode

Say = Callable[[str], None]


class ProductChanged(Exception):
    """Files of the product were edited while it was tried: results would be of neither state."""


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The steps to do, and where."""

    cache: Path
    product: str
    """Checksum of the product at the start."""
    steps: Collection[CorpusStep]
    again: bool = False
    """Whether steps that did not hold are tried again."""


def subjects(kernel: CorpusKernel, modes: Collection[InputMode]) -> Iterator[Subject]:
    """The ways in which a kernel is given to vmipatch, of those for which it has the files."""
    for mode in InputMode:
        if mode in modes and kernel.input(mode) is not None:
            yield Subject(kernel, mode)


def run(plan: StepPlan, work: Sequence[Subject], jobs: int, say: Say) -> None:
    """Take every subject through its steps. Raises ProductChanged."""
    initrd = boots.workload_file(plan.cache)
    with ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(_take_through, plan, subject, initrd, say) for subject in work]
        try:
            for each in running:
                each.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _take_through(plan: StepPlan, subject: Subject, initrd: Path, say: Say) -> None:
    results = Results(plan.cache, plan.product, subject)
    name = f"{subject.kernel.name} {subject.mode.value}"
    place = plan.cache / "work" / plan.product[:PRODUCT_LEN]
    directory = place / f"{subject.kernel.name.replace('/', '+')}.{subject.mode.value}"
    directory.mkdir(parents=True, exist_ok=True)
    bench = steps.Bench(subject, directory, initrd, plan.cache / "consoles")
    for step in subject.steps:
        if step not in plan.steps or not _is_due(plan, results, step):
            continue
        if CorpusStep.REWRITE in steps.needs(step) and not bench.output.exists():
            _do(plan, bench, CorpusStep.REWRITE, results)
        if all(_holds(results, needed) for needed in steps.needs(step)):
            result = _do(plan, bench, step, results)
            message = f": {result.message}" if result.message else ""
            say(f"{name}: {step.value}: {result.outcome.value} ({result.cpu_s:.0f} s){message}")
    if _is_over(subject, results):
        shutil.rmtree(directory)


def _do(plan: StepPlan, bench: steps.Bench, step: CorpusStep, results: Results) -> Result:
    for remnant in bench.directory.glob("again-*"):
        _remove(remnant)
    if step in (CorpusStep.REWRITE, CorpusStep.RESTORE):
        _remove(bench.output if step is CorpusStep.REWRITE else bench.directory / "back")
    result = steps.STEPS[step](bench)
    if product_checksum() != plan.product:
        raise ProductChanged("files of vmipatch changed while the corpus ran: start it again")
    results.put(step, result)
    return result


def _is_due(plan: StepPlan, results: Results, step: CorpusStep) -> bool:
    known = results.get(step)
    return known is None or (plan.again and not known.holds)


def _holds(results: Results, step: CorpusStep) -> bool:
    known = results.get(step)
    return known is not None and known.holds


def _is_over(subject: Subject, results: Results) -> bool:
    """Whether no step is left that could be done."""
    for step in subject.steps:
        needed = (results.get(each) for each in steps.needs(step))
        if results.get(step) is None and all(each is None or each.holds for each in needed):
            return False
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

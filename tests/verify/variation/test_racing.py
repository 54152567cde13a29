# SPDX-License-Identifier: MIT
"""Does `verify --vary` hold for processes that race, and find what the original never does?"""

from __future__ import annotations

import multiprocessing
import random
import re
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import InitramfsBuilder, KernelFinder
from vmipatch.verify.boots import COMMAND_LINE, BootOrder, BootResult, Phase, run_boot
from vmipatch.verify.user_space import Detail, Trace
from vmipatch.verify.variation import Variation
from vmipatch.verify.variation.rounds import PERIOD, further, shifted

pytestmark = [pytest.mark.kernels, pytest.mark.slow]

VARY, PHASES, FAULTS = 11, 20, 20
LIMIT_NS = 300_000_000_000
KINDS = ("lost", "twice", "fails", "another result", "another argument")
_VALUE = re.compile(r"(?<=[(, ])-?\d+(?=[,)])")


def done(order: BootOrder) -> BootResult:
    return run_boot(order, lambda now_ns, line: None)


@dataclass(frozen=True, slots=True)
class Boots:
    """Of the original in the first round, and as many more as `verify` makes; of the rewritten."""

    original: list[BootResult]
    rewritten: list[BootResult]
    variation: Variation


@pytest.fixture(scope="module")
def boots(kernel: KernelFinder, rewritten: KernelFinder, initramfs: InitramfsBuilder) -> Boots:
    """The rewritten kernel with many phases of its timer, and what the original does by itself."""
    script = initramfs("racing.sh", ()).read_bytes()

    def order(phase: Phase, path: Path, shift: int = 0) -> BootOrder:
        return BootOrder(
            phase, path.read_bytes(), path.name, script, COMMAND_LINE, LIMIT_NS, Detail.TIMED,
            timer_shift=shift,
        )  # fmt: skip

    first = order(Phase.ORIGINAL, kernel("tiny"))
    orders = [first, *shifted(first, VARY)]
    for number in range(PHASES):
        phase = Phase.MEASURED if number % 4 == 3 else Phase.NATIVE
        orders.append(order(phase, rewritten("tiny"), number * PERIOD // PHASES))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        results = list(pool.map(done, orders))
        original, native = results[: VARY + 1], results[VARY + 1 :]
        original += further(
            original,
            native,
            lambda round_: list(pool.map(done, shifted(first, VARY, round_))),
            foreign=True,
        )
    return Boots(original, native, Variation.of(original, foreign=True))


def test_rewritten_kernel_holds_for_twenty_phases_of_the_timer(boots: Boots) -> None:
    expected = boots.variation
    print(f"{len(boots.original)} boots of the original")
    assert expected.processes, "the workload differs from itself"
    assert len({boot.traces for boot in boots.rewritten}) > PHASES // 4, "and so does it here"
    for boot in boots.rewritten:
        assert boot.ended_by_guest
        assert expected.complaint_differences(boot.console) == []
        assert expected.console_differences(boot.console) == []
        assert expected.call_differences(boot.traces) == []


def faulty(rng: random.Random, trace: Trace) -> tuple[str, int, Trace]:
    """A trace in which one call, drawn at random, is not what it was."""
    while True:
        kind, at = rng.choice(KINDS), rng.randrange(len(trace))
        head, _, result = trace[at].rpartition(" = ")
        if kind == "lost":
            return kind, at, trace[:at] + trace[at + 1 :]
        if kind == "twice":
            return kind, at, (*trace[:at], trace[at], *trace[at:])
        if kind == "fails" and result != "-14":
            return kind, at, (*trace[:at], f"{head} = -14", *trace[at + 1 :])
        if kind == "another result" and result.lstrip("-").isdigit():
            return kind, at, (*trace[:at], f"{head} = {int(result) + 1}", *trace[at + 1 :])
        values = list(_VALUE.finditer(head))
        if kind == "another argument" and values:
            value = rng.choice(values)
            changed = f"{head[: value.start()]}{int(value[0]) + 1}{head[value.end() :]}"
            return kind, at, (*trace[:at], f"{changed} = {result}", *trace[at + 1 :])


def test_fault_in_a_process_that_varies_is_missed_only_where_it_varies(boots: Boots) -> None:
    """A lost or doubled call is one that the original makes once more, or once less, itself.

    And a value is one that differs in its own runs.
    """
    expected = boots.variation
    rng = random.Random(17)
    report = []
    for _ in range(FAULTS):
        boot = rng.choice(boots.rewritten)
        varying = list((Counter(boot.traces) - Counter(expected.steady)).elements())
        trace = rng.choice(varying)
        kind, at, wrong = faulty(rng, trace)
        left = list(boot.traces)
        left[left.index(trace)] = wrong
        is_found = bool(expected.call_differences(left))
        report.append((is_found, kind, trace[at]))
        if not is_found:
            runs = _of_kind(boots.original, trace)
            if kind in ("lost", "twice"):
                assert len({run.count(trace[at]) for run in runs}) > 1, trace[at]
            else:
                name = trace[at].partition("(")[0]
                assert at == len(trace) - 1, (kind, trace[at])
                assert len({run[-1] for run in runs if run[-1].startswith(name)}) > 1, trace[at]
    for is_found, kind, call in sorted(report):
        print("found " if is_found else "missed", kind, call)
    assert sum(is_found for is_found, *_ in report) >= FAULTS // 2


def _of_kind(boots: list[BootResult], trace: Trace) -> list[Trace]:
    """The traces of the same program in the runs of the original."""
    runs = [each for boot in boots for each in boot.traces]
    return [run for run in runs if (Counter(run) & Counter(trace)).total() > 0.6 * len(trace)]

# SPDX-License-Identifier: MIT
"""Is a difference one of the rewritten kernel's, or does the original differ from itself so?"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import product

import pytest

from tests.verify.evidence import boot, evidence
from vmipatch.verify.boots import BootOrder, BootResult, Phase
from vmipatch.verify.judge import judge
from vmipatch.verify.user_space import Detail, Trace
from vmipatch.verify.variation import Variation
from vmipatch.verify.variation.align import gaps
from vmipatch.verify.variation.rounds import PERIOD, ROUNDS, further, shifted
from vmipatch.verify.verdict import Aspect

ENTRY = ("openat(-100, *, 0x8000, 0) = 4", "read(4, *, n) = n", "close(4) = 0")
GONE = ("openat(-100, *, 0x8000, 0) = -2",)
BEFORE = ("execve(*, *, *) = 0", "openat(-100, *, 0x10000, 0) = 3", "getdents64(3, *, n) = n")
AFTER = ("close(3) = 0", "write(1, *, n) = n", "exit_group(0) = ?")
STEADY = ("fork() = 0", "getpid() = pid", "exit_group(3) = ?")
MOST = 8
"""Entries of the longest loop that is tried."""


def lister(*entries: Trace) -> Trace:
    """A process that looks at an entry of /proc for each process."""
    return (*BEFORE, *(call for entry in entries for call in entry), *AFTER)


def original(number: int, *traces: Trace, console: str = "") -> BootResult:
    return boot(Phase.ORIGINAL, traces=traces, console=console, timer_shift=number)


def variation(*runs: tuple[Trace, ...]) -> Variation:
    boots = [original(number, *traces) for number, traces in enumerate(runs)]
    return Variation.of(boots, foreign=True)


RUNS = (
    (lister(ENTRY, ENTRY), STEADY),
    (lister(ENTRY, ENTRY, ENTRY), STEADY),
    (lister(ENTRY, GONE, ENTRY), STEADY),
)


@pytest.mark.parametrize(
    "entries", [(ENTRY,), (ENTRY,) * 7, (ENTRY, GONE, ENTRY, ENTRY), (ENTRY, ENTRY, GONE, ENTRY)]
)
def test_loop_may_end_sooner_or_later(entries: tuple[Trace, ...]) -> None:
    assert variation(*RUNS).call_differences([STEADY, lister(*entries)]) == []


def changed(trace: Trace) -> Iterator[Trace]:
    """A call is lost, comes twice, fails, has another value, or comes too early."""
    for at, call in enumerate(trace):
        head, _, result = call.rpartition(" = ")
        yield trace[:at] + trace[at + 1 :]
        yield (*trace[:at], call, *trace[at:])
        yield (*trace[:at], f"{head} = -14", *trace[at + 1 :])
        if result.isdigit():
            yield (*trace[:at], f"{head} = {int(result) + 1}", *trace[at + 1 :])
        if at:
            yield (*trace[: at - 1], call, trace[at - 1], *trace[at + 1 :])


def loops() -> Iterator[tuple[Trace, ...]]:
    """The loops that RUNS stand for: entries that are there or gone, in any order and number."""
    for count in range(1, MOST):
        yield from product((ENTRY, GONE), repeat=count)


def test_nothing_else_may_happen_in_a_process_that_varies() -> None:
    """Changes of the loop's body, of its order and values, and of what is around it, are found."""
    expected = variation(*RUNS)
    allowed = {lister(*entries) for entries in loops()}
    found = 0
    for entries in ((ENTRY, ENTRY), (ENTRY, ENTRY, ENTRY), (ENTRY, GONE, ENTRY)):
        for trace in changed(lister(*entries)):
            is_wrong = bool(expected.call_differences([trace, STEADY]))
            assert is_wrong is (trace not in allowed), trace
            found += is_wrong
    assert found > 100


def test_steady_process_must_do_the_same() -> None:
    expected = variation(*RUNS)
    for trace in changed(STEADY):
        if trace != STEADY:
            assert len(expected.call_differences([trace, lister(ENTRY)])) == 1, trace
    head = "3 calls, fork() = 0, getpid() = pid, exit_group(3) = ?"
    assert expected.call_differences([lister(ENTRY)]) == [f"a process is missing: {head}"]
    found = expected.call_differences([STEADY, STEADY, lister(ENTRY)])
    assert found == [f"a process is new: {head}"]


def test_value_that_varies_may_be_any_and_the_rest_of_its_call_may_not() -> None:
    runs = [(("a(1, 2) = 0", f"kill(pid, 9) = {result}", "b() = 0"),) for result in (0, -3)]
    expected = variation(*runs)
    good = ("a(1, 2) = 0", "kill(pid, 9) = -1", "b() = 0")
    assert expected.call_differences([good]) == []
    for at, wrong in ((1, "kill(pid, 15) = 0"), (0, "a(1, 3) = 0"), (2, "b() = 1")):
        bad = (*good[:at], wrong, *good[at + 1 :])
        (line,) = expected.call_differences([bad])
        assert line.startswith(f"process 1, call {at + 1}: ")
        assert line.endswith(f"has become `{wrong}`")


def test_process_that_some_runs_have_may_be_there_or_not() -> None:
    extra = ("fork() = 0", "pause() = -4", "exit_group(9) = ?")
    expected = variation((STEADY,), (STEADY, extra))
    assert expected.call_differences([STEADY]) == expected.call_differences([STEADY, extra]) == []
    assert len(expected.call_differences([STEADY, extra, extra])) == 1
    assert expected.varies[0] == "process 2: is not there in every run"


def test_signals_may_come_between_any_two_calls_as_often_as_ever() -> None:
    handled = "sigreturn() = ?"
    runs = [
        (("a() = 0", handled, "b() = 0", "c() = 0"),),
        (("a() = 0", "b() = 0", handled, "c() = 0"),),
    ]
    expected = variation(*runs)
    assert expected.call_differences([("a() = 0", "b() = 0", "c() = 0", handled)]) == []
    for wrong in (
        ("a() = 0", "b() = 0", "c() = 0"),
        ("a() = 0", "sigreturn() = -1", "b() = 0", "c() = 0"),
    ):
        assert len(expected.call_differences([wrong])) == 1


def test_console_keeps_what_stays() -> None:
    consoles = ["boot\n1 2 bus\nfs self\nend\n", "boot\n1 2 3\nbus fs\nself\nend\n"]
    boots = [original(i, STEADY, console=text) for i, text in enumerate(consoles)]
    expected = Variation.of(boots, foreign=True)
    for text in (*consoles, "boot\n1\nbus fs self\nend\n", "boot\n1 2 3 4 bus\nfs self\nend\n"):
        assert expected.console_differences(text) == [], text
    for text in (
        "boot\n1 2 fs\nself\nend\n",
        "boot\n1 2 bus bus\nfs self\nend\n",
        "boot\n1 2 bus oops\nfs self\nend\n",
        "boot\n1 2 bus\nfs self\n",
        "boot\n1 2 bus\nfs self\nend\nmore\n",
        "1 2 bus\nfs self\nend\n",
    ):
        assert expected.console_differences(text) != [], text


def test_gaps_are_where_sequences_differ() -> None:
    rng = random.Random(7)
    for _ in range(300):
        count = rng.randrange(2, 5)
        first, *others = (
            [rng.choice("abcd") for _ in range(rng.randrange(9))] for _ in range(count)
        )
        found = gaps(first, others)
        for number, sequence in enumerate([first, *others]):
            rebuilt: list[str] = []
            at = 0
            for gap in found:
                rebuilt += [*first[at : gap.start], *gap.alternatives[number]]
                at = gap.end
            assert rebuilt + first[at:] == sequence


@pytest.mark.parametrize("holds", [True, False])
def test_verdict_is_about_what_the_original_never_does(holds: bool) -> None:
    runs = [original(i, *traces) for i, traces in enumerate(RUNS)]
    new = lister(ENTRY, ENTRY, ENTRY, ENTRY) if holds else lister(ENTRY, ENTRY[:2], ENTRY)
    native = boot(Phase.NATIVE, traces=(new, STEADY), console="")
    verdict = judge(
        evidence(
            runs[0],
            native,
            own_workload=False,
            varied=tuple(runs[1:]),
            variation=Variation.of(runs, foreign=True),
        )
    )
    assert [finding.aspect for finding in verdict.findings] == [Aspect.USER_SPACE] * (not holds)


def test_boot_with_a_shifted_timer_must_end_well() -> None:
    good = original(0, STEADY), original(500, STEADY)
    hung = boot(Phase.ORIGINAL, traces=(STEADY,), timer_shift=750, ending=None, details="gone")
    (finding,) = judge(evidence(good[0], own_workload=False, varied=(good[1], hung))).findings
    assert "timer shifted by 750 thousandths" in finding.message


@pytest.mark.parametrize(
    ("new", "rounds"),
    [
        (lister(ENTRY, ENTRY, ENTRY), 0),
        (lister(ENTRY, ENTRY[:2], ENTRY), 2),
        (lister(ENTRY, ENTRY[:1], ENTRY), ROUNDS - 1),
    ],
)
def test_original_is_booted_again_until_it_explains_the_rewritten_kernel(
    new: Trace, rounds: int
) -> None:
    runs = [original(i, *traces) for i, traces in enumerate(RUNS)]
    later = {1: lister(ENTRY), 2: lister(ENTRY, ENTRY[:2], ENTRY), 3: lister(GONE, ENTRY)}
    native = boot(Phase.NATIVE, traces=(new, STEADY), console="")
    more = further(runs, [native], lambda n: [original(n, later[n], STEADY)], foreign=True)
    assert [each.traces[0] for each in more] == [later[n] for n in range(1, rounds + 1)]


@pytest.mark.parametrize("times", [1, 3, 11, 20])
def test_every_boot_of_every_round_has_a_phase_of_its_own(times: int) -> None:
    order = BootOrder(Phase.ORIGINAL, b"", "", b"", "", 1, Detail.TIMED)
    orders = [each for number in range(ROUNDS) for each in shifted(order, times, number)]
    phases = {each.timer_shift for each in orders}
    assert len(phases) == ROUNDS * times
    assert phases <= set(range(1, PERIOD))
    assert len({each.kernel_drag for each in orders}) == ROUNDS

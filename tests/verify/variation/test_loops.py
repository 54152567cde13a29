# SPDX-License-Identifier: MIT
"""May entries of a loop come and go at any moment, and nothing else?

The traces are those of `ps` in boots of tests/kernels/initramfs/racing.sh, a letter a call.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

import pytest

from vmipatch.verify.user_space import Trace
from vmipatch.verify.variation.calls import Pattern

CALLS = {
    "S": "statx(-100, *, 2048, 2047, *) = 0",
    "x": "statx(-100, *, 2048, 2047, *) = -2",
    "o": "openat(-100, *, 0x8000, 0) = 4",
    "O": "openat(-100, *, 0x8000, 0) = -2",
    "r": "read(4, *, n) = n",
    "z": "read(4, *, n) = 0",
    "R": "read(4, *, n) = -3",
    "c": "close(4) = 0",
    "w": "write(1, *, n) = n",
}
BEFORE = (
    "brk(0) = *",
    "ioctl(1, 0x5401, *) = 0",
    CALLS["w"],
    "openat(-100, *, 0x98800, 0) = 3",
    "statx(3, *, 0x1800, 2047, *) = 0",
    "getdents64(3, *, n) = n",
)
AFTER = ("getdents64(3, *, n) = 0", "close(3) = 0", "exit_group(0) = ?")
KERNEL, USER = "Sorcozcw", "Sorcorzcw"
"""Rounds of a thread of the kernel, without a command line, and of a process."""
FIRST = "SorcOorzcw"
"""The first round also looks for names of users, in a file that is not there."""
ALWAYS = FIRST + 12 * KERNEL + USER


def ps(rounds: str) -> Trace:
    return (*BEFORE, *(CALLS[letter] for letter in rounds), *AFTER)


ORIGINAL = [
    ALWAYS + rest
    for rest in (
        USER,
        "x" + USER + "x",
        "xx" + USER + "xx",
        "xxx" + USER,
        "xxxx" + USER,
        "SoRcx" + USER + "xx",
    )
]
PATTERN = Pattern.of([ps(rounds) for rounds in ORIGINAL])


def holds(rounds: str) -> bool:
    return PATTERN.objection(ps(rounds)) is None


@pytest.mark.parametrize(
    "rest",
    [
        "SorcOwxx" + USER + "x",
        KERNEL + "x" + USER + "xx",
        "x" + KERNEL + "xx" + USER,
        USER + "x" + USER + "xx",
        USER + "SoRc",
        USER + "SO",
    ],
)
def test_what_only_a_rewritten_kernel_did_is_explained(rest: str) -> None:
    """Of twelve boots of the original none did this, and each is an entry that came or went."""
    assert holds(ALWAYS + rest)


GOING = ("x", "SO", "SOozcw", "SoRc", "SorcOw", "SorcoRc", "SorcoRcw", "SorcorRcw")
"""At each call that needs the process: the round is given up, or what needs it is left out."""
NEVER = (
    "S", "So", "Soc", "SoR", "Sor", "Sorc", "SorcO", "SorcoR", "SoRw", "SoRrc", "SorcRw", "SOc",
    "OSorcozcw", "SorcOc", "xw", "SSorcozcw", "Sorcozc", "Sorcozww", "SOO", "oSrcozcw",
)  # fmt: skip


@pytest.mark.parametrize("round_", GOING)
def test_entry_may_go_at_any_moment(round_: str) -> None:
    for rest in (round_ + USER, USER + round_, "x" + round_ + round_ + USER):
        assert holds(ALWAYS + rest), rest


@pytest.mark.parametrize("round_", NEVER)
def test_no_round_is_half_a_round(round_: str) -> None:
    for rest in (round_ + USER, USER + round_, USER + round_ + USER):
        assert not holds(ALWAYS + rest), rest


def damaged(trace: Trace) -> Iterator[tuple[str, Trace]]:
    for at, call in enumerate(trace):
        head, _, result = call.rpartition(" = ")
        yield "lost", trace[:at] + trace[at + 1 :]
        yield "twice", (*trace[:at], call, *trace[at:])
        yield "fails", (*trace[:at], f"{head} = -14", *trace[at + 1 :])
        if result.lstrip("-").isdigit():
            yield "result", (*trace[:at], f"{head} = {int(result) + 1}", *trace[at + 1 :])
        if number := re.search(r"\d+", head):
            changed = f"{head[: number.start()]}{int(number[0]) + 1}{head[number.end() :]}"
            yield "argument", (*trace[:at], f"{changed} = {result}", *trace[at + 1 :])


@pytest.mark.parametrize("rest", ["xx" + USER + "x", "SorcOwx" + USER, "SoRc" + USER, "SO" + USER])
def test_fault_in_a_round_is_found(rest: str) -> None:
    """All but a round of one call that is lost or comes once more: an entry less or more."""
    trace = ps(ALWAYS + rest)
    whole = {ps(ALWAYS + each) for each in _with_one_less_or_more(rest)}
    found = 0
    for kind, wrong in damaged(trace):
        if wrong in whole:
            assert kind in ("lost", "twice")
            continue
        assert PATTERN.objection(wrong) is not None, (kind, wrong)
        found += 1
    assert found > 4 * len(trace)


def _with_one_less_or_more(rest: str) -> set[str]:
    """And the first round's look for names, of an entry whose command line is gone."""
    places = [at for at, letter in enumerate(rest) if letter == "x"]
    found = {rest[:at] + more + rest[at + 1 :] for at in places for more in ("", "xx")}
    return {*found, rest.replace("SorcOw", "SorcOOw")}


def test_what_is_done_about_an_entry_that_is_gone_is_done() -> None:
    """`ls` says so of each; of one that goes at a moment that was seen nothing else is known."""
    entry, gone, said = "statx(3) = 0", "statx(3) = -2", "write(2, *, n) = n"
    runs = [(*2 * [entry], *number * (gone, said), entry, "close(3) = 0") for number in (1, 3)]
    pattern = Pattern.of(runs)
    assert pattern.objection((entry, entry, gone, said, entry, gone, said, "close(3) = 0")) is None
    for wrong in ((gone, entry), (gone, entry, said), (gone, said, said), (said, gone)):
        assert pattern.objection((entry, entry, *wrong, entry, "close(3) = 0")) is not None, wrong
    assert holds(ALWAYS + "SoRc" + USER) and not holds(ALWAYS + "SoRcorzcw" + USER)


def test_entries_of_every_run_have_to_be_there() -> None:
    assert not holds(12 * KERNEL + 2 * USER)
    assert not holds(FIRST + 12 * KERNEL + USER)
    assert not holds(FIRST + 11 * KERNEL + 2 * USER)


def test_loop_in_which_nothing_was_seen_to_go_stays_as_it_was() -> None:
    pattern = Pattern.of([ps(KERNEL * number + USER) for number in (2, 3)])
    assert pattern.objection(ps(KERNEL * 4 + USER)) is None
    for rest in ("SO", "SoRc", "x"):
        assert pattern.objection(ps(KERNEL * 2 + USER + rest)) is not None


def test_call_that_finds_its_file_in_one_run_only_is_not_a_loop() -> None:
    runs = [tuple(CALLS[letter] for letter in calls) for calls in ("worcw", "wOw")]
    pattern = Pattern.of(runs)
    assert not pattern.loops
    assert [pattern.objection(run) for run in runs] == [None, None]
    for calls in ("wORcw", "wOrcw", "wow", "woRcw"):
        assert pattern.objection(tuple(CALLS[letter] for letter in calls)) is not None, calls


def test_place_of_an_objection_is_that_in_the_process() -> None:
    trace = ps(ALWAYS + USER)
    for at in range(len(BEFORE) + len(ALWAYS + USER), len(trace)):
        wrong = (*trace[:at], "getpid() = pid", *trace[at + 1 :])
        found = PATTERN.objection(wrong)
        assert found is not None and found.number == at
        assert (found.expected, found.found) == (trace[at], "getpid() = pid")


def test_rounds_come_in_any_order_and_number() -> None:
    assert PATTERN.varies[0].startswith("15 to 19 rounds of `statx(-100, *, 2048, 2047, *)`")
    rng = random.Random(5)
    for _ in range(100):
        more = rng.choices((KERNEL, USER, "x", "SoRc"), k=rng.randrange(12))
        rounds = [*12 * [KERNEL], USER, USER, *more]
        rng.shuffle(rounds)
        assert holds(FIRST + "".join(rounds))

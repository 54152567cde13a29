# SPDX-License-Identifier: MIT
"""Do steps side by side end as they would alone, whatever becomes of their processes?"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from vmipatch.errors import InputNotUnderstood
from vmipatch.verify.parallel import News, Step, Watcher, run_steps

Tell = Callable[[int, str], None]


def square(number: int, tell: Tell) -> int:
    tell(number, f"line {number}")
    return number * number


def die(_tell: Tell) -> int:
    os._exit(7)


def refuse(_tell: Tell) -> int:
    raise InputNotUnderstood("not this one", file="k", hint="try another")


def linger(_tell: Tell) -> int:
    time.sleep(60)
    return 0


def hang(_tell: Tell) -> int:
    """As in a library's loop that no signal ends."""
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals) - {signal.SIGKILL})
    time.sleep(60)
    return 0


class Ear(Watcher):
    def __init__(self) -> None:
        self.heard_of: list[tuple[str, Any]] = []

    def heard(self, name: str, news: News) -> None:
        self.heard_of.append((name, news))

    def finished(self, name: str, result: Any) -> None:
        self.heard_of.append((name, result))


def test_results_come_in_the_order_of_the_steps() -> None:
    ear = Ear()
    steps = [Step(str(n), partial(square, n), lambda code: -code) for n in range(5)]
    assert run_steps(steps, ear, workers=3) == [0, 1, 4, 9, 16]
    assert ("2", News(2, "line 2")) in ear.heard_of
    assert ear.heard_of.index(("2", News(2, "line 2"))) < ear.heard_of.index(("2", 4))


def test_process_that_hangs_is_killed() -> None:
    steps = [
        Step("hangs", hang, lambda code: code, limit_s=0.5),
        Step("lives", partial(square, 3), int, limit_s=600),
    ]
    begun_s = time.monotonic()
    assert run_steps(steps, Watcher()) == [-signal.SIGKILL, 9]
    assert time.monotonic() - begun_s < 30


def test_death_of_a_process_is_a_result() -> None:
    steps = [Step("dies", die, lambda code: 100 + code), Step("lives", partial(square, 3), int)]
    assert run_steps(steps, Watcher()) == [107, 9]


def test_error_of_a_step_is_ours_and_the_others_are_ended() -> None:
    begun = time.monotonic()
    with pytest.raises(InputNotUnderstood) as caught:
        run_steps([Step("lingers", linger, int), Step("refuses", refuse, int)], Watcher(), 2)
    assert (caught.value.file, caught.value.hint) == ("k", "try another")
    assert time.monotonic() - begun < 50

# SPDX-License-Identifier: MIT
"""How do the steps of a verification run side by side? Each in a process of its own.

Steps share nothing, so their results do not depend on which runs when. A guest that takes the
emulator down takes its own process with it, which is a result like any other.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Final, Generic, TypeVar

from vmipatch.errors import VmipatchError
from vmipatch.workers import begin_worker

_START: Final = "spawn"
"""A fresh interpreter: no lock or thread of ours is copied."""

Result = TypeVar("Result")
Work = Callable[[Callable[[int, str], None]], Result]


@dataclass(frozen=True, slots=True)
class News:
    """How far a step has come."""

    now_ns: int
    """Virtual time; 0 of a step that boots nothing."""
    line: str
    """The last line of its console; of a step without one, how far it is."""


@dataclass(frozen=True, slots=True)
class Step(Generic[Result]):
    """One piece of work. `work` is a module's function, or a partial of one."""

    name: str
    work: Work[Result]
    on_death: Callable[[int], Result]
    """The result if the process dies; gets its exit code."""
    is_harmless: bool = False
    """Whether it runs nothing of a guest, and so cannot take the process down."""
    limit_s: float | None = None
    """Real time after which its process is killed; `on_death` gets -SIGKILL then, too."""


@dataclass(frozen=True, slots=True)
class _Running(Generic[Result]):
    index: int
    step: Step[Result]
    process: BaseProcess
    end_s: float
    """When it is killed, by `time.monotonic`."""


class Watcher:
    """Is told how the steps go on; this one does not care."""

    def planned(self, count: int) -> None:
        """So many steps more will be done."""

    def started(self, name: str) -> None:
        """A step has begun."""

    def heard(self, name: str, news: News) -> None:
        """A step has come so far."""

    def finished(self, name: str, result: Any) -> None:
        """A step has its result."""


def run_steps(
    steps: Sequence[Step[Result]], watcher: Watcher, workers: int | None = None
) -> list[Result]:
    """Do all steps, as many at a time as there are CPUs; results in the order of the steps.

    A single step that is harmless is done in this process. Raises the VmipatchError of the first
    step that fails; the others are ended.
    """
    watcher.planned(len(steps))
    if len(steps) == 1 and steps[0].is_harmless:
        return [_do_here(steps[0], watcher)]
    workers = workers or len(os.sched_getaffinity(0))
    context = multiprocessing.get_context(_START)
    waiting = list(enumerate(steps))
    running: dict[Connection, _Running[Result]] = {}
    results: dict[int, Result] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                index, step = waiting.pop(0)
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_serve, args=(theirs, step.work), daemon=True)
                process.start()
                theirs.close()
                limit_s = math.inf if step.limit_s is None else step.limit_s
                running[ours] = _Running(index, step, process, time.monotonic() + limit_s)
                watcher.started(step.name)
            for ready in wait(list(running), _patience_s(running.values())):
                assert isinstance(ready, Connection), "only such were waited for"
                _listen(ready, running, results, watcher)
            for late in running.values():
                if time.monotonic() >= late.end_s:
                    late.process.kill()
    finally:
        for left in running.values():
            left.process.terminate()
            left.process.join()
    return [results[index] for index in range(len(steps))]


def _patience_s(running: Iterable[_Running[Result]]) -> float | None:
    """Until the first of them is to be killed; None if none is."""
    end_s = min(each.end_s for each in running)
    return None if end_s == math.inf else max(0.0, end_s - time.monotonic())


def _do_here(step: Step[Result], watcher: Watcher) -> Result:
    watcher.started(step.name)
    result = step.work(lambda now_ns, line: watcher.heard(step.name, News(now_ns, line)))
    watcher.finished(step.name, result)
    return result


def _listen(
    pipe: Connection,
    running: dict[Connection, _Running[Result]],
    results: dict[int, Result],
    watcher: Watcher,
) -> None:
    """Take one message, or the end of the process."""
    of = running[pipe]
    try:
        message = pipe.recv()
    except EOFError:
        of.process.join()
        message = of.step.on_death(of.process.exitcode or 0)
    if isinstance(message, News):
        watcher.heard(of.step.name, message)
        return
    of.process.join()
    del running[pipe]
    pipe.close()
    if isinstance(message, VmipatchError):
        raise message
    results[of.index] = message
    watcher.finished(of.step.name, message)


def _serve(pipe: Connection, work: Work[Any]) -> None:
    """In the new process: after the news an error or the result is the last word."""
    begin_worker()
    try:
        pipe.send(work(lambda now_ns, line: pipe.send(News(now_ns, line))))
    except VmipatchError as error:
        pipe.send(error)

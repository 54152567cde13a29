# SPDX-License-Identifier: MIT
"""Who works on the files of a tree? An executor of the caller, or a pool of processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    as_completed,
)
from multiprocessing import get_context

from vmipatch.errors import EnvironmentProblem, NotServed
from vmipatch.files.entry import Entry
from vmipatch.files.nodes import Node
from vmipatch.workers import begin_pool_worker

Task = Callable[[Node], Entry]
"""Does one file. Can be pickled, raises nothing but bugs, and knows the tree by its path."""


def run_all(
    nodes: Sequence[Node],
    task: Task,
    executor: Executor | None = None,
    jobs: int | None = None,
) -> Iterator[Entry]:
    """Do `task` for each node, the largest files first; entries as they come.

    Without an `executor` a pool of `jobs` processes does it (as many as there are processors if
    None); few files, or a single job, are done here. An executor that was given stays open. Raises
    EnvironmentProblem if the executor breaks or is shut down, NotServed for `jobs` beside one.
    """
    largest_first = sorted(nodes, key=lambda node: (-node.size, node.path))
    if jobs is not None and (jobs < 1 or executor is not None):
        raise NotServed(
            f"jobs={jobs} is not a number of processes"
            if executor is None
            else "an executor knows by itself how many jobs it does at once",
            hint="give one of the two, and at least one job",
        )
    if executor is not None:
        yield from _submitted(largest_first, task, executor)
        return
    jobs = jobs or processors()
    if jobs == 1 or len(nodes) < 2 * jobs:
        yield from map(task, largest_first)
        return
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=begin_pool_worker)
    with pool:
        yield from _submitted(largest_first, task, pool)


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0))


def _submitted(nodes: Sequence[Node], task: Task, executor: Executor) -> Iterator[Entry]:
    """An early end leaves no work that has not begun."""
    futures: list[Future[Entry]] = []
    try:
        for node in nodes:
            try:
                futures.append(executor.submit(task, node))
            except RuntimeError as error:  # broken, or shut down
                raise _given_up(error) from error
        for future in as_completed(futures):
            try:
                entry = future.result()
            except (BrokenExecutor, CancelledError) as error:
                raise _given_up(error) from error
            yield entry
    finally:
        for future in futures:
            future.cancel()


def _given_up(error: BaseException) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"the executor does not do its work: {error or type(error).__name__}",
        hint="run again: what is done is kept; with less memory use fewer jobs; a script that "
        "makes processes calls below `if __name__ == '__main__':`",
    )

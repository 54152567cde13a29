# SPDX-License-Identifier: MIT
"""Who works on the files of a tree? An executor of the caller, or a pool of processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from vmipatch.errors import EnvironmentProblem
from vmipatch.files.entry import Entry
from vmipatch.files.nodes import Node
from vmipatch.workers import begin_worker

Task = Callable[[Node], Entry]
"""Does one file. Can be pickled, raises nothing but bugs, and knows the tree by its path."""


def run_all(
    root: str,
    nodes: Sequence[Node],
    task: Task,
    executor: Executor | None = None,
    jobs: int | None = None,
) -> Iterator[Entry]:
    """Do `task` for each node, the largest files first; entries as they come.

    Without an `executor` a pool of `jobs` processes does it (as many as there are processors if
    None); few files, or a single job, are done here. An executor that was given stays open. Raises
    EnvironmentProblem if a process of the pool dies.
    """
    largest_first = sorted(nodes, key=lambda node: (-node.size, node.path))
    if executor is not None:
        yield from _submitted(largest_first, task, executor)
        return
    jobs = jobs or processors()
    if jobs == 1 or len(nodes) < 2 * jobs:
        yield from map(task, largest_first)
        return
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=begin_worker)
    with pool:
        try:
            yield from _submitted(largest_first, task, pool)
        except BrokenProcessPool as error:
            raise EnvironmentProblem(
                "a process of the pool died",
                file=root,
                hint="run again: what is done is kept; with less memory use fewer --jobs",
            ) from error


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0))


def _submitted(nodes: Sequence[Node], task: Task, executor: Executor) -> Iterator[Entry]:
    """Whatever ends this early leaves no work that has not begun."""
    futures: list[Future[Entry]] = [executor.submit(task, node) for node in nodes]
    try:
        for future in as_completed(futures):
            yield future.result()
    finally:
        for future in futures:
            future.cancel()

# SPDX-License-Identifier: MIT
"""How do the machines run side by side? Each in a process of its own, none far ahead of the others.

A machine that has told more than a pipe holds waits until its events have been compared. Whose turn
it is depends on how much each has told, never on the host's speed: two runs find the same.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Final

from vmipatch.errors import VmipatchError
from vmipatch.verify.lockstep.compare import Comparer
from vmipatch.verify.lockstep.events import SeenEvent
from vmipatch.verify.lockstep.world import WorldEnd, WorldOrder, run_world
from vmipatch.workers import begin_worker

_START: Final = "spawn"
"""A fresh interpreter, as for the steps of vmipatch.verify.parallel."""

Heard = Callable[[int, int], None]
"""Gets the number of a machine and its virtual time, now and then."""


def run_side_by_side(
    orders: Sequence[WorldOrder], comparer: Comparer, heard: Heard
) -> list[WorldEnd | None]:
    """Run the machines until all have ended or their events differ; None for those cut short.

    Raises the VmipatchError of a machine that could not be built.
    """
    context = multiprocessing.get_context(_START)
    processes, pipes = [], []
    for order in orders:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_serve, args=(theirs, order), daemon=True)
        process.start()
        theirs.close()
        processes.append(process)
        pipes.append(ours)
    ends: list[WorldEnd | None] = [None] * len(orders)
    told = [0] * len(orders)
    running = set(range(len(orders)))
    try:
        while running and comparer.divergence is None:
            turn = min(running, key=lambda i: (told[i], i))
            message = _receive(pipes[turn], processes[turn])
            if isinstance(message, WorldEnd):
                ends[turn] = message
                running.remove(turn)
                comparer.end(turn)
                continue
            told[turn] += len(message)
            heard(turn, message[-1].now_ns)
            _compare(comparer, turn, message)
    finally:
        for process in processes:
            process.terminate()
            process.join()
    return ends


def _compare(comparer: Comparer, machine: int, events: list[SeenEvent]) -> None:
    for event in events:
        if comparer.divergence is None:
            comparer.take(machine, event)


def _receive(pipe: Connection, process: BaseProcess) -> list[SeenEvent] | WorldEnd:
    """The next that a machine tells. A guest that takes the emulator down has ended, too."""
    try:
        message = pipe.recv()
    except EOFError:
        process.join()
        return WorldEnd(
            None, f"its process ended with {process.exitcode}", "", 0, 0, 0, False, 0, ()
        )
    if isinstance(message, VmipatchError):
        raise message
    assert isinstance(message, (list, WorldEnd)), "nothing else is sent"
    return message


def _serve(pipe: Connection, order: WorldOrder) -> None:
    """In the new process: events, then an error or the end."""
    begin_worker()
    try:
        pipe.send(run_world(order, pipe.send))
    except VmipatchError as error:
        pipe.send(error)

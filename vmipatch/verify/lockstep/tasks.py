# SPDX-License-Identifier: MIT
"""Which process runs, under a name that is the same in every machine?

Linux has a kernel stack for each task, and tells the CPU of it in the TSS at each switch: ESP0, and
from 4.19 on ESP1 beside an entry stack for all (arch/x86/include/asm/switch_to.h,
update_task_stack). The pair tells tasks apart, threads too. A task's name is its place in the tree
of forks: `1` is the first, `1.2` its second child. Process numbers would not do, since kernel
threads are numbered with processes and begun when there is work.

Another kernel may have one stack for each processor: there page tables tell tasks apart.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from vmipatch.emu.machine import Machine

_ESP0_OFF, _ESP1_AFTER_ESP0 = 4, 8

Place = tuple[int, int]
"""Stack pointer and return address of a system call."""


@dataclass(slots=True, eq=False)
class OpenCall:
    """A system call that has not returned yet."""

    number: int
    arguments: tuple[int, ...]
    fork: Fork | None = None


@dataclass(slots=True, eq=False)
class Task:
    """A thread of a process."""

    name: str
    tables_pa: int
    forks: int = 0
    """How many children it has begun."""
    children: dict[int, str] = field(default_factory=dict)
    """Their names by process number, as far as it has been told."""
    open: dict[Place, OpenCall] = field(default_factory=dict)
    handlers: dict[int, set[int]] = field(default_factory=dict)
    """By address, the signals that are handled there."""
    frames: list[str] = field(default_factory=list)
    """The channels of the signal handlers that it is in, the innermost last."""
    has_faulted: bool = False
    """Whether the last that happened to it was an exception."""

    @property
    def channel(self) -> str:
        """Where its events go now."""
        return self.frames[-1] if self.frames else f"task {self.name}"


@dataclass(slots=True, eq=False)
class Fork:
    """A fork whose child has not been seen yet."""

    parent: Task
    name: str
    """Of the child to be."""
    return_va: int
    stack_va: int
    stack_pa: int | None
    """The page that parent and child share until one of them writes to it."""
    shares_memory: bool
    """Whether they share all pages for good: vfork, threads."""


class Tasks:
    """All that were seen, by kernel stack; of a kernel that is not Linux by page tables."""

    def __init__(self, machine: Machine, *, is_linux: bool = True) -> None:
        self._machine = machine
        self._is_linux = is_linux
        self._registers = machine.cpu.registers
        self._by_stack: dict[tuple[int, int], Task] = {}
        self._pending: list[Fork] = []
        self._roots = 0

    def current(self) -> Task:
        """The task that runs, in user mode; a new one if it is not known and no task's child."""
        key = self._stack()
        task = self._by_stack.get(key)
        if task is None:
            self._roots += 1
            task = self._by_stack[key] = Task(str(self._roots), self._registers.cr3)
        return task

    def begin_fork(self, parent: Task, place: Place, shares_memory: bool) -> Fork:
        """A system call at `place` is about to make a child."""
        parent.forks += 1
        stack_va, return_va = place
        stack_pa = self._machine.mmu.find(stack_va)
        name = f"{parent.name}.{parent.forks}"
        fork = Fork(parent, name, return_va, stack_va, stack_pa, shares_memory)
        self._pending.append(fork)
        return fork

    def end_fork(self, fork: Fork, result: int | None) -> None:
        """It has come back to the parent: with the child's number, or None without a child."""
        if result is not None:
            fork.parent.children[result] = fork.name
        elif fork in self._pending:
            self._pending.remove(fork)

    def born(self, place: Place) -> Task | None:
        """The child that begins by returning 0 to `place`; None if what returns is not a child."""
        fork = self._fork_of(place)
        if fork is None:
            return None
        self._pending.remove(fork)
        handlers = {va: set(signals) for va, signals in fork.parent.handlers.items()}
        child = Task(fork.name, self._registers.cr3, handlers=handlers)
        self._by_stack[self._stack()] = child
        return child

    def end(self, task: Task) -> None:
        """The task will not run again: its stack may serve another."""
        self._by_stack = {key: one for key, one in self._by_stack.items() if one is not task}

    def _fork_of(self, place: Place) -> Fork | None:
        """By the page of the stack, which a child shares; else any, if the task is new."""
        task, find = self._by_stack.get(self._stack()), self._machine.mmu.find
        here = [fork for fork in self._pending if fork.return_va == place[1]]
        for fork in here:
            may_be = task is None or not (
                task is fork.parent or (fork.shares_memory and place in task.open)
            )
            shared_pa = fork.stack_pa
            is_shared = shared_pa is not None and find(fork.stack_va) == shared_pa
            if may_be and is_shared:
                return fork
        return here[0] if here and task is None else None

    def _stack(self) -> tuple[int, int]:
        machine = self._machine
        if not self._is_linux:
            return 0, self._registers.cr3
        pa = machine.mmu.find(machine.privilege.task.base + _ESP0_OFF)
        if pa is None:
            return 0, 0
        memory = machine.memory
        return memory.read_u32(pa), memory.read_u32(pa + _ESP1_AFTER_ESP0)

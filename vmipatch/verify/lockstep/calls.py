# SPDX-License-Identifier: MIT
"""What does a process ask of the kernel, what does it get, and what interrupts it?

System calls at `int 0x80` and after it, exceptions in user mode, and signal handlers as they are
entered. Memory that pointers point to is shown where `memory` has a row for it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from vmipatch.emu.hypervisor.virtual_cpu import USER_RING
from vmipatch.emu.machine import Machine
from vmipatch.emu.processor.events import Cause, Event, Vector
from vmipatch.verify.lockstep import memory
from vmipatch.verify.lockstep.events import Emit, EventKind
from vmipatch.verify.lockstep.later import Later
from vmipatch.verify.lockstep.tasks import OpenCall, Place, Task, Tasks
from vmipatch.verify.system_calls import CALLS, NUMBERS
from vmipatch.verify.system_calls import WordKind as Word
from vmipatch.verify.user_space import Detail, gates, numbered, word

_ERRORS: Final = 0xFFFFF000
_ENDS: Final = frozenset({NUMBERS["exit"], NUMBERS["exit_group"]})
_RETURN_ELSEWHERE: Final = frozenset({NUMBERS["sigreturn"], NUMBERS["rt_sigreturn"]})
_FORKS: Final = frozenset({NUMBERS["fork"], NUMBERS["vfork"], NUMBERS["clone"]})
_SETS_HANDLER: Final = frozenset({NUMBERS["sigaction"], NUMBERS["rt_sigaction"]})
_REPEATS: Final = NUMBERS["restart_syscall"]
_KERNEL_VA: Final = 0xC0000000
_CLONE_VM: Final = 0x100
_LEAST_HANDLER: Final = 2
"""0 and 1 in place of an address are SIG_DFL and SIG_IGN."""
_LAZY: Final = frozenset({Vector.NO_FPU})
"""Exceptions that depend on which process ran before: old kernels load the FPU's registers late."""
_ARGUMENTS: Final = (3, 1, 2, 6, 7, 5)
"""EBX, ECX, EDX, ESI, EDI, EBP by their numbers in instructions."""


class ProcessWatcher:
    """Emits what processes do and what is done to them."""

    def __init__(self, machine: Machine, detail: Detail, emit: Emit, later: Later) -> None:
        self._cpu = machine.cpu
        self._registers = machine.cpu.registers
        self._peek = machine.mmu.peek
        self._tasks = Tasks(machine, is_linux=detail is not Detail.NUMBERS)
        self._detail = detail
        self._gates = gates(detail)
        self._emit = emit
        self._later = later
        self._watched: set[int] = set()

    def on_delivery(self, event: Event) -> None:
        """A handler of the kernel is about to be entered."""
        registers = self._registers
        if registers.cpl != USER_RING:
            return
        if event.cause is Cause.SOFTWARE and event.vector in self._gates:
            self._on_gate(event.vector)
        elif event.cause is not Cause.EXTERNAL and event.vector not in _LAZY:
            # A child may fault where it is to begin, for want of the page.
            task = self._newborn((registers.esp, registers.eip)) or self._current()
            what = str(event)
            if event.vector == Vector.PAGE_FAULT and event.cause is Cause.EXCEPTION:
                what = f"page fault of {self._fault_va()}, error code {event.error or 0:#x}"
            self._emit(EventKind.FAULT, task.channel, f"{what} at {registers.eip:#x}")
            task.has_faulted = True

    def _newborn(self, place: Place) -> Task | None:
        """The child that begins at `place`, if one does."""
        child = None if self._registers.eax else self._tasks.born(place)
        if child is not None:
            self._emit(EventKind.PROCESS, child.channel, "begins")
        return child

    def _fault_va(self) -> str:
        va = self._registers.cr2
        if self._detail is Detail.NUMBERS and va >= _KERNEL_VA:
            return "the kernel's memory"  # the example guest tells its processes where things are
        return f"{va:#x}"

    def _current(self) -> Task:
        """The task that runs, after an execve a new program."""
        task = self._tasks.current()
        tables_pa = self._registers.cr3
        if task.tables_pa != tables_pa:
            task.tables_pa = tables_pa
            task.open.clear()
            task.handlers.clear()
            task.frames.clear()
            self._emit(EventKind.PROCESS, task.channel, "a new program")
        return task

    def _on_gate(self, vector: int) -> None:
        registers = self._registers
        place, number = (registers.esp, registers.eip), registers.eax
        task = self._current()
        if self._detail is Detail.NUMBERS:
            self._emit(EventKind.CALL, task.channel, numbered(vector, number))
            return
        waiting = task.open.get(place)
        if waiting is not None and number in (waiting.number, _REPEATS):
            return  # the kernel lets an interrupted call begin again
        arguments = tuple(registers.gpr(i) for i in _ARGUMENTS)
        contents = memory.given(number, arguments, self._peek, self._detail)
        self._emit(EventKind.CALL, task.channel, self._asked(number, arguments, task) + contents)
        task.has_faulted = False
        if number in _ENDS:
            self._tasks.end(task)
        elif number in _RETURN_ELSEWHERE:
            if task.frames:
                task.frames.pop()
        else:
            call = task.open[place] = OpenCall(number, arguments)
            if number in _FORKS:
                shares = number == NUMBERS["vfork"] or (
                    number == NUMBERS["clone"] and bool(arguments[0] & _CLONE_VM)
                )
                call.fork = self._tasks.begin_fork(task, place, shares)
            self._watch(place[1], self._on_return)

    def _on_return(self, va: int) -> None:
        """The instruction after a gate is about to run."""
        registers = self._registers
        if registers.cpl != USER_RING:
            return
        place, result = (registers.esp, va), registers.eax
        if self._newborn(place) is not None:
            return
        task = self._current()
        call = task.open.pop(place, None)
        if call is None:
            return
        if call.fork is not None:
            self._tasks.end_fork(call.fork, result if result < _ERRORS else None)
        if call.number in _SETS_HANDLER and not result:
            self._set_handler(task, call)
        arguments = call.arguments
        contents = memory.returned(call.number, arguments, result, self._peek, self._detail)
        answer = self._answered(call.number, result, task)
        self._emit(EventKind.RESULT, task.channel, answer + contents)
        task.has_faulted = False

    def _set_handler(self, task: Task, call: OpenCall) -> None:
        signal, action_va = call.arguments[:2]
        handler_va = int.from_bytes(self._peek(action_va, 4), "little") if action_va else 0
        if handler_va >= _LEAST_HANDLER:
            task.handlers.setdefault(handler_va, set()).add(signal)
            if handler_va not in self._watched:
                self._later(partial(self._watch, handler_va, self._on_handler))

    def _on_handler(self, va: int) -> None:
        """A possible signal handler is about to run: the kernel passes the signal's number."""
        registers = self._registers
        if registers.cpl != USER_RING:
            return
        signal, task = registers.eax, self._current()
        given = int.from_bytes(self._peek(registers.esp + 4, 4), "little")
        if signal != given or signal not in task.handlers.get(va, ()):
            return
        # Where a signal comes depends on time, unless the process has just brought it on itself.
        place = task.channel if task.has_faulted else f"task {task.name}, signal {signal}"
        task.frames.append(place)
        task.has_faulted = False
        self._emit(EventKind.SIGNAL, place, f"signal {signal} is handled at {va:#x}")

    def _watch(self, va: int, call: Callable[[int], None]) -> None:
        if va not in self._watched:
            self._watched.add(va)
            self._cpu.watch(va, partial(call, va))

    def _asked(self, number: int, arguments: tuple[int, ...], task: Task) -> str:
        row = CALLS.get(number)
        if row is None:
            return f"call_{number}()"
        pairs = zip(row.arguments, arguments)  # noqa: B905
        shown = ", ".join(self._word(kind, value, task) for kind, value in pairs)
        return f"{row.name}({shown})"

    def _answered(self, number: int, result: int, task: Task) -> str:
        row = CALLS.get(number)
        if row is None:
            return f"call_{number}() is back"
        if result > _ERRORS:
            return f"{row.name} = {result - (1 << 32)}"
        return f"{row.name} = {self._word(row.result, result, task)}"

    def _word(self, kind: Word, value: int, task: Task) -> str:
        if kind is Word.PID and value in task.children:
            return f"task {task.children[value]}"
        if kind is Word.POINTER and self._detail is Detail.EXACT:
            return f"{value:#x}"  # nothing is random: addresses are equal too
        return word(kind, value, self._detail)

# SPDX-License-Identifier: MIT
"""What did user space see? The system calls of each process, at their gate and after it.

Linux has one gate, `int 0x80`. Of another kernel every software interrupt of user mode counts that
is not an exception's, with its vector, and what the calls of Linux mean to it is not assumed.

What two kernels must agree on is, for every address space, the sequence of its calls: name,
arguments that are plain values, result. What they may differ in is which process runs when,
addresses, process numbers, times, and what a pointer points to. Processes have no names here: the
sequences are compared as a multiset. Threads of one address space count as one process.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from vmipatch.emu.hypervisor.virtual_cpu import USER_RING
from vmipatch.emu.processor.cpu import Cpu
from vmipatch.verify.system_calls import CALLS, NUMBERS, SystemCall, WordKind


class Detail(enum.Enum):
    """How much of a call two kernels have to agree on."""

    EXACT = "name, values, results"
    TIMED = "as EXACT but for lengths: the workload may read what depends on time"
    NUMBERS = "the number alone: the kernel is not Linux"


GATE: Final = 0x80
"""The software interrupt of i386 Linux; the emulated CPU has no sysenter."""
_ANY_GATE: Final = frozenset(range(0x20, 0x100))
"""The vectors that are not exceptions'."""


def gates(detail: Detail) -> frozenset[int]:
    """The vectors by which a process may call its kernel."""
    return _ANY_GATE if detail is Detail.NUMBERS else frozenset({GATE})


Trace = tuple[str, ...]
"""The calls of one process, such as `write(1, *, 14) = 14`."""

_MASK32: Final = 0xFFFFFFFF
_ERRORS: Final = 4096
_ENDS: Final = frozenset({NUMBERS["exit"], NUMBERS["exit_group"]})
_RETURN_ELSEWHERE: Final = frozenset({NUMBERS["sigreturn"], NUMBERS["rt_sigreturn"]})
_FORKS: Final = frozenset({NUMBERS["fork"], NUMBERS["vfork"], NUMBERS["clone"]})
_REPEATS: Final = NUMBERS["restart_syscall"]
_REPLACES: Final = NUMBERS["execve"]


@dataclass(slots=True)
class _Call:
    number: int
    text: str
    result: int | None = None


@dataclass(slots=True)
class _Process:
    calls: list[_Call] = field(default_factory=list)
    open: dict[tuple[int, int], _Call] = field(default_factory=dict)
    """Calls that have not returned yet, by stack pointer and return address."""

    @property
    def was_replaced(self) -> bool:
        """Whether its last call is an execve that did not come back."""
        return bool(self.calls) and (
            self.calls[-1].number == _REPLACES and self.calls[-1].result is None
        )


class SystemCallRecorder:
    """Writes the calls of a running machine down."""

    def __init__(self, cpu: Cpu, detail: Detail) -> None:
        self._cpu = cpu
        self._registers = cpu.registers
        self._detail = detail
        self.gates = gates(detail)
        """The vectors of the software interrupts that are for `on_gate`."""
        self._processes: list[_Process] = []
        self._current: dict[int, _Process] = {}
        """By the address of the page tables."""
        self._watched: set[int] = set()
        self._children = 0
        """Forks whose child has not been seen yet."""

    def on_gate(self, vector: int = GATE) -> None:
        """A software interrupt that is one of the `gates`; EIP is after it."""
        registers = self._registers
        if registers.cpl != USER_RING:
            return
        tables_pa, at = registers.cr3, (registers.esp, registers.eip)
        number = registers.eax
        process = self._current.get(tables_pa)
        if self._detail is Detail.NUMBERS:
            process = process or self._begin(tables_pa)
            process.calls.append(_Call(number, numbered(vector, number)))
            return
        if process is None or process.was_replaced:
            process = self._begin(tables_pa)
        waiting = process.open.pop(at, None)
        if waiting is not None and number in (waiting.number, _REPEATS):
            process.open[at] = waiting  # the kernel lets an interrupted call begin again
            return
        call = _Call(number, shown(number, self._arguments(), self._detail))
        process.calls.append(call)
        if number in _ENDS:
            del self._current[tables_pa]
        elif number not in _RETURN_ELSEWHERE:
            process.open[at] = call
        self._children += number in _FORKS
        if at[1] not in self._watched:
            self._watched.add(at[1])
            self._cpu.watch(at[1], self._on_return)

    def traces(self) -> tuple[Trace, ...]:
        """The calls of each process so far, in the order of their first."""
        return tuple(
            tuple(_with_result(call, self._detail) for call in process.calls)
            for process in self._processes
        )

    def _begin(self, tables_pa: int) -> _Process:
        process = _Process()
        self._processes.append(process)
        self._current[tables_pa] = process
        return process

    def _on_return(self) -> None:
        """The instruction after a gate is about to run."""
        registers = self._registers
        if registers.cpl != USER_RING:
            return
        result = registers.eax
        process = self._current.get(registers.cr3)
        at = registers.esp, registers.eip
        call = process.open.pop(at, None) if process is not None else None
        if call is not None and not (call.number == _REPLACES and result == 0):
            call.result = result
            born = result == 0 or result > _MASK32 - _ERRORS
            self._children -= call.number in _FORKS and born
        elif self._children and result == 0:
            self._children -= 1
            self._begin(registers.cr3).calls.append(_Call(NUMBERS["fork"], "fork()", 0))

    def _arguments(self) -> tuple[int, ...]:
        registers = self._registers
        # EBX, ECX, EDX, ESI, EDI, EBP by their numbers in instructions.
        return tuple(registers.gpr(number) for number in (3, 1, 2, 6, 7, 5))


def compare(before: Iterable[Trace], after: Iterable[Trace]) -> list[str]:
    """How what user space saw differs, one line a process; none if it does not."""
    left, right = list(before), list(after)
    count_left, count_right = Counter(left), Counter(right)
    lost = list((count_left - count_right).elements())
    gained = list((count_right - count_left).elements())
    lines = [_first_difference(*pair, left.index(pair[0]) + 1) for pair in zip(lost, gained)]  # noqa: B905
    lines += [f"a process is missing: {head(trace)}" for trace in lost[len(gained) :]]
    lines += [f"a process is new: {head(trace)}" for trace in gained[len(lost) :]]
    return lines


def _first_difference(before: Trace, after: Trace, process: int) -> str:
    pairs = zip(before, after, strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(before), len(after)))
    old, new = (trace[at] if at < len(trace) else "nothing more" for trace in (before, after))
    return f"process {process}, call {at + 1}: `{old}` has become `{new}`"


def head(trace: Trace) -> str:
    """A process by its first calls."""
    return f"{len(trace)} calls, {', '.join(trace[:3])}"


def numbered(vector: int, number: int) -> str:
    """A call of which nothing is known but its gate and its number."""
    return f"call_{number}()" if vector == GATE else f"int {vector:#x}, call_{number}()"


def shown(number: int, arguments: tuple[int, ...], detail: Detail) -> str:
    """A call as it is compared, without its result. `arguments`: EBX, ECX, EDX, ESI, EDI, EBP."""
    call = CALLS.get(number)
    if call is None or detail is Detail.NUMBERS:
        return numbered(GATE, number)
    shown = (word(kind, value, detail) for kind, value in zip(call.arguments, arguments))  # noqa: B905
    return f"{call.name}({', '.join(shown)})"


def _with_result(call: _Call, detail: Detail) -> str:
    if detail is Detail.NUMBERS:
        return call.text
    if call.result is None:
        return f"{call.text} = ?"
    row: SystemCall | None = CALLS.get(call.number)
    kind = WordKind.TIME if row is None else row.result
    return f"{call.text} = {_result(kind, call.result, detail)}"


def _result(kind: WordKind, value: int, detail: Detail) -> str:
    if value > _MASK32 - _ERRORS:
        return str(value - _MASK32 - 1)
    return word(kind, value, detail)


def word(kind: WordKind, value: int, detail: Detail) -> str:
    """A word as it is compared: itself, or what kind of thing it is."""
    signed = value - (1 << 32) if value >> 31 else value
    match kind:
        case WordKind.VALUE:
            return str(signed) if -_ERRORS < signed < _ERRORS else f"{value:#x}"
        case WordKind.LENGTH:
            return str(signed) if detail is Detail.EXACT or signed <= 0 else "n"
        case WordKind.POINTER:
            return "*" if value else "0"
        case WordKind.PID:
            return "pid" if signed > 0 else str(signed)
        case WordKind.TIME:
            return "t"

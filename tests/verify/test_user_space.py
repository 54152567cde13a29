# SPDX-License-Identifier: MIT
"""Are the system calls of processes written down as two kernels have to agree on them?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from vmipatch.verify.system_calls import CALLS, NUMBERS, WordKind
from vmipatch.verify.user_space import Detail, SystemCallRecorder, Trace, compare

MASK32 = 0xFFFFFFFF
GATE_END_VA = 0x08048100


class FakeGuest:
    """Processes that make calls; stands in for the CPU and its registers."""

    def __init__(self, detail: Detail = Detail.EXACT) -> None:
        self.registers = self
        self.cpl, self.cr3, self.esp, self.eip, self.eax = 3, 0, 0, 0, 0
        self._gprs: dict[int, int] = {}
        self._watched: dict[int, Callable[[], None]] = {}
        self.recorder = SystemCallRecorder(cast(Any, self), detail)

    def gpr(self, number: int) -> int:
        return self._gprs.get(number, 0)

    def watch(self, va: int, call: Callable[[], None]) -> Callable[[], None]:
        assert va not in self._watched
        self._watched[va] = call
        return lambda: None

    def call(self, tables: int, name: str, *arguments: int, esp: int = 0xBFFF0000) -> None:
        self.cr3, self.esp, self.eip, self.eax = tables, esp, GATE_END_VA, NUMBERS[name]
        self._gprs = dict(zip((3, 1, 2, 6, 7, 5), arguments, strict=False))
        self.recorder.on_gate()

    def back(self, tables: int, result: int, esp: int = 0xBFFF0000) -> None:
        self.cr3, self.esp, self.eip, self.eax = tables, esp, GATE_END_VA, result & MASK32
        self._watched[GATE_END_VA]()

    @property
    def traces(self) -> tuple[Trace, ...]:
        return self.recorder.traces()


def test_values_and_results_are_kept_addresses_and_pids_are_not() -> None:
    guest = FakeGuest()
    for name, arguments, result in (
        ("write", (1, 0x08049000, 14), 14),
        ("open", (0x08049000, 0x242, 0o600), -2),
        ("mmap", (0xBFFF0000,), 0xB7000000),
        ("getpid", (), 77),
        ("brk", (0,), 0x0804C000),
    ):
        guest.call(1, name, *arguments)
        guest.back(1, result)
    assert guest.traces == (
        (
            "write(1, *, 14) = 14",
            "open(*, 578, 384) = -2",
            "mmap(*) = *",
            "getpid() = pid",
            "brk(0) = *",
        ),
    )


def test_child_begins_a_trace_of_its_own_whoever_returns_first() -> None:
    for child_first in (False, True):
        guest = FakeGuest()
        guest.call(1, "fork")
        returns = [(1, 42), (2, 0)]
        for tables, result in reversed(returns) if child_first else returns:
            guest.back(tables, result)
        guest.call(2, "exit", 7)
        guest.call(1, "waitpid", 42, 0x1000, 0)
        guest.back(1, 42)
        assert guest.traces == (
            ("fork() = pid", "waitpid(pid, *, 0) = pid"),
            ("fork() = 0", "exit(7) = ?"),
        )


def test_page_tables_of_a_dead_process_serve_a_new_one() -> None:
    guest = FakeGuest()
    for code in (1, 2):
        guest.call(1, "fork")
        guest.back(2, 0)
        guest.call(2, "exit", code)
        guest.back(1, 40 + code)
    assert guest.traces[1:] == (("fork() = 0", "exit(1) = ?"), ("fork() = 0", "exit(2) = ?"))


def test_page_tables_of_a_replaced_program_serve_a_new_one() -> None:
    guest = FakeGuest()
    for program in (3, 4):
        guest.call(1, "fork")
        guest.back(1, 40)
        guest.back(2, 0)
        guest.call(2, "execve", 0x1000, 0x1000, 0x1000, esp=0xBFFE0000)
        guest.call(program, "exit", program)
    replaced = ("fork() = 0", "execve(*, *, *) = ?")
    assert guest.traces[1:] == (replaced, ("exit(3) = ?",), replaced, ("exit(4) = ?",))


def test_call_that_begins_again_counts_once() -> None:
    guest = FakeGuest()
    guest.call(1, "read", 0, 0x1000, 5)
    guest.call(1, "read", 0, 0x1000, 5)
    guest.call(1, "restart_syscall")
    guest.back(1, 5)
    assert guest.traces == (("read(0, *, 5) = 5",),)


def test_kernel_code_makes_no_system_calls() -> None:
    guest = FakeGuest()
    guest.cpl = 0
    guest.recorder.on_gate()
    assert guest.traces == ()


@pytest.mark.parametrize(
    ("detail", "text"),
    [
        (Detail.EXACT, "read(0, *, 512) = 99"),
        (Detail.TIMED, "read(0, *, n) = n"),
    ],
)
def test_detail_says_what_is_compared(detail: Detail, text: str) -> None:
    guest = FakeGuest(detail)
    guest.call(1, "read", 0, 0x1000, 512)
    guest.back(1, 99)
    assert guest.traces == ((text,),)


def test_of_another_kernel_gate_and_number_count_and_no_call_is_an_end() -> None:
    guest = FakeGuest(Detail.NUMBERS)
    assert guest.recorder.gates == frozenset(range(0x20, 0x100))
    for vector, name in ((0x80, "exit"), (0x30, "execve"), (0x30, "read")):
        guest.cr3, guest.eax = 1, NUMBERS[name]
        guest.recorder.on_gate(vector)
    assert guest.traces == (("call_1()", "int 0x30, call_11()", "int 0x30, call_3()"),)


def test_order_of_processes_is_no_difference_but_order_of_calls_is() -> None:
    one, two = ("getpid() = pid", "sync() = 0"), ("getuid() = 0",)
    assert compare([one, two], [two, one]) == []
    (line,) = compare([one, two], [two, one[::-1]])
    assert line == "process 1, call 1: `getpid() = pid` has become `sync() = 0`"
    assert compare([one, two], [one])[0].startswith("a process is missing: 1 calls")
    assert compare([one], [one, two])[0].startswith("a process is new: 1 calls")
    assert "`sync() = 0` has become `nothing more`" in compare([one], [one[:1]])[0]


def test_table_has_each_number_and_name_once() -> None:
    assert len(CALLS) == len(NUMBERS) > 250
    assert (CALLS[3].name, CALLS[3].result) == ("read", WordKind.LENGTH)
    assert all(len(call.arguments) <= 6 for call in CALLS.values())

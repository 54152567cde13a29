# SPDX-License-Identifier: MIT
"""Is what processes do written down so that two machines have to agree on it, and can?"""

from __future__ import annotations

import pytest

from tests.verify.lockstep.fakes import BEHIND_VA, STACK_VA, FakeMachine
from vmipatch.verify.user_space import Detail

BUFFER_VA, HANDLER_VA = 0x08049000, 0x08048200
USR1 = 10


def shared_stack(machine: FakeMachine, parent: int, child: int) -> None:
    """The child's stack is still its parent's page."""
    machine.pages[child, STACK_VA & -0x1000] = 0x500000 + parent * 0x1000


def test_calls_are_told_with_what_is_after_their_pointers() -> None:
    machine = FakeMachine()
    machine.bytes[BUFFER_VA] = b"hello\n\0more"
    machine.run(1)
    machine.call("write", 1, BUFFER_VA, 6)
    machine.back(6)
    machine.call("open", BUFFER_VA, 2, 0)
    machine.back(-2)
    machine.call("read", 0, BUFFER_VA, 100)
    machine.back(3)
    machine.call("gettimeofday", BUFFER_VA, 0)
    machine.back(0)
    assert machine.of("task 1") == [
        "write(1, 0x8049000, 6) 'hello\\n'",
        "write = 6",
        "open(0x8049000, 2, 0) 'hello\\n'",
        "open = -2",
        "read(0, 0x8049000, 100)",
        "read = 3 'hel'",
        "gettimeofday(0x8049000, 0x0)",
        "gettimeofday = 0",
    ]


def test_long_buffers_differ_by_their_last_byte() -> None:
    texts = []
    for last in b"ab":
        machine = FakeMachine()
        machine.bytes[BUFFER_VA] = bytes(4095) + bytes([last])
        machine.run(1)
        machine.call("write", 1, BUFFER_VA, 4096)
        texts += machine.of("task 1")
    assert len(set(texts)) == 2 and all(len(text) < 250 for text in texts)


@pytest.mark.parametrize("child_first", [False, True])
def test_children_are_named_by_their_parents_whoever_runs_first(child_first: bool) -> None:
    machine = FakeMachine()
    for number in (2, 3):
        machine.run(1)
        machine.call("fork")
        shared_stack(machine, 1, number)
        for is_child in (child_first, not child_first):
            machine.run(number if is_child else 1)
            machine.back(0 if is_child else 40 + number)
    machine.run(3)
    machine.call("exit", 7)
    machine.run(1)
    machine.call("kill", 42, 9)
    machine.back(0)
    machine.call("waitpid", -1, BUFFER_VA, 0)
    machine.back(43)
    assert machine.of("task 1.1") == ["begins"]
    assert machine.of("task 1.2") == ["begins", "exit(7)"]
    assert machine.of("task 1")[1::2][:2] == ["fork = task 1.1", "fork = task 1.2"]
    assert machine.of("task 1")[4] == "kill(task 1.1, 9)"
    assert machine.of("task 1")[-1].startswith("waitpid = task 1.2")


def test_children_of_two_parents_are_told_apart_by_their_stacks() -> None:
    machine = FakeMachine()
    for parent in (1, 2):
        machine.run(parent)
        machine.call("fork")
    for parent, child in ((2, 4), (1, 3)):  # the later fork's child runs first
        shared_stack(machine, parent, child)
        machine.run(child)
        machine.back(0)
        machine.call("getuid")
    assert [channel for channel, text in machine.told if text == "begins"] == [
        "task 2.1",
        "task 1.1",
    ]


def test_stack_of_a_killed_process_serves_a_new_one() -> None:
    machine = FakeMachine()
    machine.run(1)
    machine.call("fork")
    shared_stack(machine, 1, 2)
    machine.run(2)
    machine.back(0)
    machine.call("pause")  # it never comes back
    machine.run(1)
    machine.back(42)
    machine.call("fork")
    machine.run(2)
    machine.back(0)
    machine.call("getuid")
    assert machine.of("task 1.2") == ["begins", "getuid()"]


def test_child_that_faults_where_it_begins_has_begun() -> None:
    machine = FakeMachine()
    machine.run(1)
    machine.call("fork")
    shared_stack(machine, 1, 2)
    machine.run(2)
    machine.eax = 0
    machine.fault(BEHIND_VA)
    machine.back(0)
    machine.call("getuid")
    fault = f"page fault of {BEHIND_VA:#x}, error code 0x6 at {BEHIND_VA:#x}"
    assert machine.of("task 1.1") == ["begins", fault, "getuid()"]


def test_failed_fork_has_no_child() -> None:
    machine = FakeMachine()
    machine.run(1)
    machine.call("fork")
    machine.back(-11)
    machine.run(2)
    machine.call("getuid")
    machine.back(0)
    assert machine.of("task 2") == ["getuid()", "getuid = 0"]


def test_execve_begins_a_program_of_the_same_task() -> None:
    machine = FakeMachine()
    machine.run(1)
    machine.call("execve", BUFFER_VA, 0, 0)
    machine.run(1, tables=9)
    machine.call("getuid", esp=STACK_VA - 64)
    assert machine.of("task 1")[1:] == ["a new program", "getuid()"]


def test_call_that_begins_again_counts_once() -> None:
    machine = FakeMachine()
    machine.run(1)
    machine.call("read", 0, BUFFER_VA, 5)
    machine.call("read", 0, BUFFER_VA, 5)
    machine.call("restart_syscall")
    machine.back(5)
    assert len(machine.of("task 1")) == 2


def handled(machine: FakeMachine, signal: int = USR1) -> None:
    machine.bytes[BUFFER_VA] = HANDLER_VA.to_bytes(4, "little") + bytes(12)
    machine.run(1)
    machine.call("sigaction", signal, BUFFER_VA, 0)
    machine.back(0)
    machine.told.clear()


def test_signals_have_a_channel_of_their_own_and_so_has_what_the_handler_does() -> None:
    machine = FakeMachine()
    handled(machine)
    machine.handle(USR1, HANDLER_VA)
    machine.call("getuid", esp=STACK_VA - 0x80)
    machine.back(0, esp=STACK_VA - 0x80)
    machine.call("sigreturn", esp=STACK_VA - 0x80)
    machine.call("getgid")
    assert machine.of(f"task 1, signal {USR1}") == [
        f"signal {USR1} is handled at {HANDLER_VA:#x}", "getuid()", "getuid = 0", "sigreturn()",
    ]  # fmt: skip
    assert machine.of("task 1") == ["getgid()"]


def test_signal_that_a_fault_brought_on_stands_in_order() -> None:
    machine = FakeMachine()
    handled(machine)
    machine.fault(0x14)
    machine.handle(USR1, HANDLER_VA)
    assert machine.of("task 1") == [
        f"page fault of 0x14, error code 0x6 at {BEHIND_VA:#x}",
        f"signal {USR1} is handled at {HANDLER_VA:#x}",
    ]


def test_code_that_runs_where_a_handler_is_is_no_signal() -> None:
    machine = FakeMachine()
    handled(machine)
    machine.handle(USR1 + 1, HANDLER_VA)
    assert machine.told == []


def test_detail_says_how_much_is_compared() -> None:
    timed, numbers = FakeMachine(Detail.TIMED), FakeMachine(Detail.NUMBERS)
    for machine in (timed, numbers):
        machine.bytes[BUFFER_VA] = b"took 12 ms"
        machine.run(1)
        machine.call("write", 1, BUFFER_VA, 10)
    timed.back(10)
    assert timed.of("task 1") == ["write(1, *, n) 'took # ms'", "write = n"]
    assert numbers.of("task 1") == ["call_4()"]

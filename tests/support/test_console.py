# SPDX-License-Identifier: MIT
"""Does the comparison of consoles forgive what its rules say, and nothing else?"""

from __future__ import annotations

import pytest

from tests.support.console import RULES, GuestConsole, compare, complaints, new_warnings

CONSOLE = """\
[    0.000000] Linux version 6.1.0 (someone@somewhere) #1
[    0.000000] tsc: Detected 2596.111 MHz processor
[    0.026299] Memory: 253568K/261624K available (1713K kernel code, 180K init, 8056K reserved)
[    0.054637] Calibrating delay loop (skipped).. 5192.22 BogoMIPS (lpj=25961110)
[    0.244129] Run /init as init process
VMI-MARK begin
== time
slept long enough
VMI-MARK kernel messages
[    1.162898] clocksource: tsc: mask: 0xffffffffffffffff max_cycles: 0x1, max_idle_ns: 4 ns
VMI-MARK done
[    4.784841] reboot: Restarting system
"""
SMP_CONSOLE = CONSOLE.replace(
    "[    0.244129]", "[    0.2] smp: Brought up 1 node, 2 CPUs\n[    0.244129]"
)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("0.026299", "0.036299"),
        ("2596.111 MHz", "2600.002 MHz"),
        ("1713K kernel code", "1729K kernel code"),
        ("5192.22 BogoMIPS (lpj=25961110)", "5200.01 BogoMIPS (lpj=26000050)"),
        ("max_cycles: 0x1, max_idle_ns: 4 ns", "max_cycles: 0x2, max_idle_ns: 5 ns"),
    ],
)
def test_measured_values_are_forgiven(before: str, after: str) -> None:
    assert before in CONSOLE
    assert compare(CONSOLE, CONSOLE.replace(before, after)) == []


def test_clock_that_was_measured_otherwise_is_forgiven_with_several_processors_only() -> None:
    line = "[    0.000000] tsc: Detected 2596.111 MHz processor\n"
    assert compare(CONSOLE, CONSOLE.replace(line, "")) == ["- tsc: Detected # MHz processor"]
    assert compare(SMP_CONSOLE, SMP_CONSOLE.replace(line, "")) == []


def test_number_of_an_input_device_is_forgiven_with_several_processors_only() -> None:
    line = "[    0.1] input: AT keyboard as /devices/platform/serio0/input/input0\n"
    for console, same in ((CONSOLE, False), (SMP_CONSOLE, True)):
        whole = line + console
        assert (compare(whole, whole.replace("input/input0", "input/input1")) == []) is same
        assert compare(whole, whole.replace("serio0", "serio1"))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("slept long enough", "woke after 0.2"),
        ("slept long enough\n", ""),
        ("== time\n", "== time\n\n"),
        ("6.1.0", "6.1.1"),
        ("/261624K", "/261600K"),
        ("Run /init", "Run /bin/init"),
        ("VMI-MARK done\n", ""),
        ("[    0.244129]", "[    0.2] Disabled\n[    0.244129]"),
    ],
)
def test_any_other_change_is_a_difference(before: str, after: str) -> None:
    assert before in CONSOLE
    for console in (CONSOLE, SMP_CONSOLE):
        assert compare(console, console.replace(before, after))
        assert compare(console.replace(before, after), console)


def test_order_of_kernel_lines_matters_with_one_processor_only() -> None:
    def exchanged(console: str) -> str:
        lines = console.splitlines(keepends=True)
        return "".join([lines[2], lines[1], lines[0], *lines[3:]])

    assert compare(CONSOLE, exchanged(CONSOLE))
    assert compare(SMP_CONSOLE, exchanged(SMP_CONSOLE)) == []


def test_order_of_the_workload_always_matters() -> None:
    exchanged = SMP_CONSOLE.replace("== time\nslept long enough\n", "slept long enough\n== time\n")
    assert compare(SMP_CONSOLE, exchanged)


@pytest.mark.parametrize(
    "line",
    [
        "WARNING: CPU: 0 PID: 1 at kernel/fork.c:1 copy_process+0x1/0x2",
        "BUG: unable to handle page fault for address: 00000004",
        "Oops: 0000 [#1] SMP",
        "kernel BUG at mm/slob.c:1!",
        "Call Trace:",
        "Kernel panic - not syncing: Attempted to kill init!",
        "rcu: INFO: rcu_sched detected stalls on CPUs/tasks:",
        "init[1] general protection fault ip:8048000 sp:bf800000 error:0",
        "sh[7]: segfault at 0 ip 08048000 sp bf800000 error 4 in busybox",
        "invalid opcode: 0000 [#1] SMP",
        "INFO: task sh:7 blocked for more than 120 seconds.",
    ],
)
def test_new_complaint_is_seen_wherever_it_stands(line: str) -> None:
    for mark in ("VMI-MARK begin", "== time", "VMI-MARK done"):
        complaining = CONSOLE.replace(mark, f"[    0.3] {line}\n{mark}")
        assert new_warnings(CONSOLE, complaining) == [line]
        assert new_warnings(complaining, complaining) == []
        assert new_warnings(complaining, CONSOLE) == []


def test_quiet_console_is_no_complaint() -> None:
    assert complaints(CONSOLE) == []


def test_console_without_the_mark_is_not_done() -> None:
    assert GuestConsole.parse(CONSOLE).done
    assert not GuestConsole.parse(CONSOLE[: CONSOLE.index("VMI-MARK done")]).done
    assert not GuestConsole.parse("").done


def test_dates_that_differ_are_forgiven_but_nothing_else_of_their_lines() -> None:
    lines = (
        "[    0.2] audit: type=2000 audit(1154390402.648:1): state=initialized res=1",
        "[    9.1] rtc_cmos: setting system clock to 2006-08-01T00:00:11 UTC (1154390411)",
    )
    before = CONSOLE.replace("VMI-MARK begin", "\n".join((*lines, "VMI-MARK begin")))
    assert compare(before, before.replace("402.648", "402.696")) == []
    assert (
        compare(before, before.replace("00:00:11 UTC (1154390411)", "00:00:12 UTC (1154390412)"))
        == []
    )
    assert compare(before, before.replace("res=1", "res=0")) != []


def test_the_list_of_rules_stays_short() -> None:
    assert len(RULES) <= 15
    assert all(rule.reason for rule in RULES)

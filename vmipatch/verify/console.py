# SPDX-License-Identifier: MIT
"""Do two boots say the same? The comparison of consoles, and the written list of what it forgives.

A kernel's lines are normalised by RULES first, then compared in order; with more than one processor
as a multiset, since their lines come in any order.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

_SMP_LINE = "smp: Brought up"


@dataclass(frozen=True, slots=True)
class ConsoleRule:
    """Each match of `pattern` in a kernel line becomes `replacement`; None drops the line."""

    pattern: re.Pattern[str]
    replacement: str | None
    reason: str
    smp_only: bool = False
    """One processor has a clock that no host can disturb."""


def _rule(
    pattern: str, replacement: str | None, reason: str, *, smp_only: bool = False
) -> ConsoleRule:
    return ConsoleRule(re.compile(pattern), replacement, reason, smp_only)


RULES = (
    _rule(r"^\[ *\d+\.\d+\] ", "", "time stamps tell how fast the emulator was"),
    _rule(r"^vmi: ", None, "the runtime says which of the two worlds it found"),
    _rule(r"\d+\.\d+ MHz", "# MHz", "the TSC is measured against another clock"),
    _rule(r"\d+\.\d+ BogoMIPS( \(lpj=\d+\))?", "# BogoMIPS", "measured, or derived from the TSC"),
    _rule(r"max_cycles: 0x\w+, max_idle_ns: \d+", "max_cycles: #", "derived from the TSC"),
    _rule(r"Marking stable \(.*", "Marking stable #", "shows the time since power-on"),
    _rule(
        r"(?<=^Memory: )\d+K|\d+K(?= (kernel code|rwdata|rodata|init|bss|reserved))",
        "#K",
        "the rewritten kernel holds thunks and annotations: other sizes of its parts",
    ),
    _rule(
        r"(?<=memory: )\d+K$|(?<=read-only data: )\d+k$",
        "#K",
        "freed and protected parts of the kernel: the same",
    ),
    _rule(
        r"(?<= likely on CPU )\d+ \(core \d+, socket \d+\)",
        "#",
        "which processor a process runs on depends on when each became idle",
    ),
    _rule(r"Total pages: \d+", "Total pages: #", "what the kernel's size leaves over"),
    _rule(
        r"^(tsc|clocksource|sched_clock): |^APIC (calibration|delta)|^PM-Timer ",
        None,
        "how well clocks are measured, and which is believed, depends on how busy the host is",
        smp_only=True,
    ),
    _rule(
        r"\baudit\(\d+\.\d+:|system clock to \S+ UTC \(\d+\)",
        "#",
        "dates, by a clock that shows the time since power-on",
    ),
    _rule(r"random: crng init done", None, "comes when enough interrupts have been counted"),
    _rule(
        r"calibrate_delay_direct\(\) failed|Probably due to long platform interrupts",
        None,
        "a second processor that the host did not run in time",
        smp_only=True,
    ),
    _rule(
        r"(?<=/input/input)\d+$",
        "#",
        "devices are numbered as their probes come: an original kernel differs from itself",
        smp_only=True,
    ),
)

FOREIGN_RULES = (
    _rule(r"(?<![\w.])\d+(\.\d+)*(?![\w.])", "#", "counters and times of programs we do not know"),
    _rule(r" +", " ", "columns follow the width of numbers"),
)
"""For the lines of a workload that is not verify's own, on top of RULES."""

_COMPLAINT = re.compile(
    r"WARNING|BUG\b|Oops|Call Trace|[Kk]ernel panic|general protection|invalid opcode"
    r"|[Uu]nable to handle|double fault|stack segment|alignment check|segfault|trap \w+ ip:"
    r"|soft lockup|hard LOCKUP|detected stalls|self-detected stall|blocked for more than"
    r"|Bad page|bad: scheduling|Failed to|ftrace (failed|bug)|jump_label: Fatal"
    r"|unexpected|Spurious|spurious|nobody cared|corrupt"
)
"""The words of kernels for something wrong (lib/bug.c, arch/x86/kernel/{traps,dumpstack}.c,
arch/x86/mm/fault.c, kernel/{watchdog,hung_task}.c, kernel/rcu/tree_stall.h, kernel/irq/spurious.c,
kernel/trace/ftrace.c, arch/x86/kernel/jump_label.c)."""


def is_smp(lines: Iterable[str]) -> bool:
    """Whether several processors wrote these lines."""
    return any(_SMP_LINE in line for line in lines)


def normalised(
    lines: Iterable[str], smp: bool, rules: Sequence[ConsoleRule] = RULES
) -> Iterator[str]:
    """The lines after the rules, in order; each rule sees what those before it left."""
    for line in lines:
        text: str | None = line.rstrip()
        for rule in rules:
            if text and (smp or not rule.smp_only) and rule.pattern.search(text):
                drop = rule.replacement is None
                text = None if drop else rule.pattern.sub(rule.replacement or "", text)
        if text:
            yield text


def differences(before: str, after: str, *, foreign: bool) -> list[str]:
    """Lines that two whole consoles do not share: they begin with `-` or `+`, none if equal.

    `foreign`: the workload is not verify's own, so that FOREIGN_RULES are needed as well.
    """
    rules = RULES + FOREIGN_RULES if foreign else RULES
    old, new = before.splitlines(), after.splitlines()
    smp = is_smp(old)
    left, right = (tuple(normalised(lines, smp, rules)) for lines in (old, new))
    return as_multiset(left, right) if smp else in_order(left, right)


def in_order(before: Sequence[str], after: Sequence[str]) -> list[str]:
    """The changes that lead from one list of lines to the other."""
    changes = difflib.ndiff(before, after)
    return [change for change in changes if change.startswith(("- ", "+ "))]


def as_multiset(before: Sequence[str], after: Sequence[str]) -> list[str]:
    """The lines that one list has more often than the other."""
    count_before, count_after = Counter(before), Counter(after)
    lost = [f"- {line}" for line in (count_before - count_after).elements()]
    gained = [f"+ {line}" for line in (count_after - count_before).elements()]
    return lost + gained


def multiset_differences(befores: Sequence[Sequence[str]], after: Sequence[str]) -> list[str]:
    """The lines that `after` has less often than all of several lists, or more often than each."""
    least, most = Counter(befores[0]), Counter(befores[0])
    for before in befores[1:]:
        least &= Counter(before)
        most |= Counter(before)
    count = Counter(after)
    lost = [f"- {line}" for line in (least - count).elements()]
    return lost + [f"+ {line}" for line in (count - most).elements()]


def new_warnings(original: str, rewritten: str) -> list[str]:
    """The kernel's complaints in `rewritten` that `original` does not have, or has less often."""
    before, after = (Counter(complaints(text)) for text in (original, rewritten))
    return list((after - before).elements())


def complaints(text: str) -> list[str]:
    """The lines of a console with which a kernel complains, normalised, wherever they stand."""
    return [line for line in normalised(text.splitlines(), smp=False) if _COMPLAINT.search(line)]

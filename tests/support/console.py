# SPDX-License-Identifier: MIT
"""Do two boots say the same? The comparison of consoles, and the written list of what it forgives.

A console has two kinds of lines. What /test printed is compared exactly. What the kernel printed is
normalised by RULES first, then compared in order; with more than one processor as a multiset, since
their lines come in any order.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_SMP_LINE = "smp: Brought up"

MARK_BEGIN = "VMI-MARK begin"
MARK_MESSAGES = "VMI-MARK kernel messages"
MARK_DONE = "VMI-MARK done"


@dataclass(frozen=True, slots=True)
class Rule:
    """Each match of `pattern` in a kernel line becomes `replacement`; None drops the line."""

    pattern: re.Pattern[str]
    replacement: str | None
    reason: str
    smp_only: bool = False
    """One processor has a clock that no host can disturb (qemu.STEADY_CLOCK)."""


def _rule(pattern: str, replacement: str | None, reason: str, *, smp_only: bool = False) -> Rule:
    return Rule(re.compile(pattern), replacement, reason, smp_only)


RULES = (
    _rule(r"^\[ *\d+\.\d+\] ", "", "time stamps tell how fast the emulator was"),
    _rule(r"\d+\.\d+ MHz", "# MHz", "the TSC is measured against another clock"),
    _rule(r"\d+\.\d+ BogoMIPS( \(lpj=\d+\))?", "# BogoMIPS", "measured, or derived from the TSC"),
    _rule(r"max_cycles: 0x\w+, max_idle_ns: \d+", "max_cycles: #", "derived from the TSC"),
    _rule(r"Marking stable \(.*", "Marking stable #", "shows the time since power-on"),
    _rule(
        r"(?<=^Memory: )\d+K|\d+K(?= (kernel code|rwdata|rodata|init|bss|reserved))",
        "#K",
        "the rewritten kernel holds thunks and annotations: other sizes of its parts",
    ),
    _rule(r"memory: \d+K$", "memory: #K", "freed parts of the kernel: the same"),
    _rule(r"read-only data: \d+k$", "read-only data: #k", "protected parts: the same"),
    _rule(r"Total pages: \d+", "Total pages: #", "what the kernel's size leaves over"),
    _rule(
        r"^(tsc|clocksource|sched_clock): |^APIC (calibration|delta)|^PM-Timer ",
        None,
        "how well clocks are measured, and which is believed, depends on how busy the host is",
        smp_only=True,
    ),
    _rule(r"random: crng init done", None, "comes when enough interrupts have been counted"),
    _rule(
        r"calibrate_delay_direct\(\) failed|Probably due to long platform interrupts",
        None,
        "a second processor that the host did not run in time",
        smp_only=True,
    ),
)

_COMPLAINT = re.compile(
    r"WARNING|BUG\b|Oops|Call Trace|[Kk]ernel panic|general protection|invalid opcode"
    r"|[Uu]nable to handle|double fault|stack segment|alignment check|segfault|trap \w+ ip:"
    r"|soft lockup|hard LOCKUP|detected stalls|self-detected stall|blocked for more than"
    r"|Bad page|bad: scheduling|Failed to|ftrace (failed|bug)|jump_label: Fatal"
    r"|unexpected|Spurious|spurious|nobody cared|corrupt"
)
"""What kernels write when something is wrong (lib/bug.c, arch/x86/kernel/{traps,dumpstack}.c,
arch/x86/mm/fault.c, kernel/{watchdog,hung_task}.c, kernel/rcu/tree_stall.h, kernel/irq/spurious.c,
kernel/trace/ftrace.c, arch/x86/kernel/jump_label.c)."""


@dataclass(frozen=True, slots=True)
class Console:
    """One boot's output, taken apart."""

    kernel: tuple[str, ...]
    """The kernel's lines, normalised."""
    test: tuple[str, ...]
    """What /test printed."""
    smp: bool
    """Whether several processors wrote the kernel's lines."""
    done: bool
    """Whether the test came to its end."""

    @classmethod
    def parse(cls, text: str) -> Console:
        """Take a console apart at the marks that /init prints."""
        boot, _, rest = text.partition(f"{MARK_BEGIN}\n")
        test, _, late = rest.partition(f"{MARK_MESSAGES}\n")
        lines = [*boot.splitlines(), *late.splitlines()]
        smp = any(_SMP_LINE in line for line in lines)
        kernel = _normalised((line for line in lines if not line.startswith("VMI-MARK")), smp)
        return cls(tuple(kernel), tuple(test.splitlines()), smp, f"\n{MARK_DONE}\n" in text)


def compare(original: str, rewritten: str) -> list[str]:
    """The differences between two consoles: lines that begin with `-` or `+`, none if equal."""
    before, after = Console.parse(original), Console.parse(rewritten)
    differences = _in_order(before.test, after.test)
    if before.smp:
        differences += _as_multiset(before.kernel, after.kernel)
    else:
        differences += _in_order(before.kernel, after.kernel)
    if before.done != after.done:
        differences.append("- done" if before.done else "+ done")
    return differences


def new_warnings(original: str, rewritten: str) -> list[str]:
    """The kernel's complaints in `rewritten` that `original` does not have, or has less often."""
    before, after = (Counter(complaints(text)) for text in (original, rewritten))
    return list((after - before).elements())


def complaints(text: str) -> list[str]:
    """The lines of a console with which a kernel complains, normalised, wherever they stand."""
    return [line for line in _normalised(text.splitlines(), smp=False) if _COMPLAINT.search(line)]


def _normalised(lines: Iterable[str], smp: bool) -> Iterator[str]:
    """The lines after the rules, in order; each rule sees what those before it left."""
    for line in lines:
        text: str | None = line.rstrip()
        for rule in RULES:
            if text and (smp or not rule.smp_only) and rule.pattern.search(text):
                drop = rule.replacement is None
                text = None if drop else rule.pattern.sub(rule.replacement or "", text)
        if text:
            yield text


def _in_order(before: tuple[str, ...], after: tuple[str, ...]) -> list[str]:
    changes = difflib.ndiff(before, after)
    return [change for change in changes if change.startswith(("- ", "+ "))]


def _as_multiset(before: tuple[str, ...], after: tuple[str, ...]) -> list[str]:
    count_before, count_after = Counter(before), Counter(after)
    lost = [f"- {line}" for line in (count_before - count_after).elements()]
    gained = [f"+ {line}" for line in (count_after - count_before).elements()]
    return lost + gained

# SPDX-License-Identifier: MIT
"""In what does a boot on Xen differ from one without a hypervisor?

The lines of verify's own workload are the same, in their order, and so is each of its system calls,
by name and plain values. The kernel's own lines may differ where it sees another machine, but it
complains of nothing that it does not complain of alone, but for HIDDEN.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from vmipatch.verify import workload
from vmipatch.verify.boots import BootResult
from vmipatch.verify.console import in_order, new_warnings
from vmipatch.verify.user_space import Trace
from vmipatch.verify.xen.interrupt_log import calls_of
from vmipatch.verify.xen.machine import XenBoot

HIDDEN: Final = (
    (
        re.compile(r"Failed to access perfctr msr \(MSR [0-9a-f]+ is [0-9a-f]+\)"),
        "performance counters are Xen's, and the ROM shows none",
    ),
)
"""Whole lines with which a kernel tells that something is not there (docs/xen.md), and why."""


def new_complaints(found: XenBoot, reference: BootResult) -> list[str]:
    """Complaints on Xen that are new against the native boot, but for what is hidden."""
    lines = new_warnings(reference.console, found.console)
    return [line for line in lines if not any(why.fullmatch(line) for why, _ in HIDDEN)]


def workload_lines(console: str) -> list[str]:
    """The lines of verify's workload."""
    lines = (line.strip() for line in console.splitlines())
    return [line for line in lines if line.startswith(workload.PREFIX)]


def line_differences(found: XenBoot, reference: BootResult) -> list[str]:
    """Lines of the workload that only one of the two has, marked with `-` or `+`."""
    return in_order(workload_lines(reference.console), workload_lines(found.console))


def call_differences(found: XenBoot, traces: Iterable[Trace]) -> list[str]:
    """System calls that were made more or less often than natively."""
    native = calls_of(traces)
    names = sorted(native.keys() | found.calls.keys())
    return [
        f"`{name}`: {found.calls.get(name, 0)} times, natively {native[name]}"
        for name in names
        if found.calls.get(name, 0) != native[name]
    ]

# SPDX-License-Identifier: MIT
"""Which exits does paravirtualisation spare, which does it keep, and how is a pair compared?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vmipatch.emu.hypervisor.exits import ExitKind
from vmipatch.emu.report import Call, RunResult

AT_MOST_LEFT = 0.001
AT_MOST_OFF = 0.02

SPARED = {
    "cli": (ExitKind.CLI,),
    "pushf": (ExitKind.PUSHF,),
    "popf": (ExitKind.POPF,),
    "iret": (ExitKind.IRET, ExitKind.HYPERCALL_IRET),
    "control register reads": (ExitKind.CR_READ,),
    "descriptor register reads": (ExitKind.TABLE_STORE,),
    "rdtsc": (Call.RDTSC,),
}
"""The kinds that the ROM does by itself; an iret that the hypervisor is asked for counts as one."""

KEPT = {
    "writes of system registers, invlpg": (
        ExitKind.CR_WRITE, ExitKind.CLTS, ExitKind.DEBUG_REGISTER, ExitKind.INVLPG, ExitKind.CACHE,
        ExitKind.TABLE_LOAD, ExitKind.HYPERCALL_CALL,
    ),
    "halts": (ExitKind.HLT, ExitKind.HYPERCALL_HALT),
    "rdmsr or wrmsr": (ExitKind.MSR,),
    "segments and far returns": (
        ExitKind.STACK_SEGMENT, ExitKind.FAR_RETURN, ExitKind.DESCRIPTOR
    ),
    "page faults": (ExitKind.PAGE_FAULT,),
    "software interrupts": (ExitKind.INT,),
    "other faults": (ExitKind.PROTECTION, ExitKind.EXCEPTION, Call.INVALID),
    "port reads": (Call.IN,),
    "port writes": (Call.OUT,),
    "cpuid": (Call.CPUID,),
    "reads where no memory is": (Call.HOLE_READ,),
    "writes where no memory is": (Call.HOLE_WRITE,),
}  # fmt: skip
"""The kinds that the hypervisor must see in both modes, whether by a fault or by a call."""

NEW = {
    ExitKind.STI, ExitKind.HYPERCALL_DELIVER, ExitKind.HYPERCALL_INIT, ExitKind.FALLBACK,
    ExitKind.ROM, ExitKind.USER_FLAGS, ExitKind.USER_OBSERVED, ExitKind.TSC, ExitKind.SHADOW,
}  # fmt: skip
"""Kinds that a test of their own speaks of."""


@dataclass(frozen=True, slots=True)
class Gain:
    """The same workload in both modes."""

    trapped: RunResult
    paravirtual: RunResult

    def counts(self, kinds: tuple[ExitKind | Call, ...]) -> tuple[int, int]:
        """Exits of those kinds: trapped, paravirtual."""
        return _count(self.trapped, kinds), _count(self.paravirtual, kinds)

    def left(self, at_least: int = 0) -> Mapping[str, tuple[int, int]]:
        """Spared kinds of which more than a thousandth is left, and more than `at_least`."""
        table = {name: self.counts(kinds) for name, kinds in SPARED.items()}
        return {
            name: (before, after)
            for name, (before, after) in table.items()
            if after > max(AT_MOST_LEFT * before, at_least)
        }

    def off(self, at_least: int, allowed: Mapping[str, float]) -> Mapping[str, tuple[int, int]]:
        """Kept kinds that differ by more than a fiftieth (or what is `allowed`) and `at_least`."""
        table = {name: self.counts(kinds) for name, kinds in KEPT.items()}
        return {
            name: (before, after)
            for name, (before, after) in table.items()
            if abs(after - before) > max(allowed.get(name, AT_MOST_OFF) * before, at_least)
        }


def _count(result: RunResult, kinds: tuple[ExitKind | Call, ...]) -> int:
    found = result.statistics
    return sum(
        found.traps[kind] if isinstance(kind, ExitKind) else found.calls[kind] for kind in kinds
    )

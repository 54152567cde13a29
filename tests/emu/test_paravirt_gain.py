# SPDX-License-Identifier: MIT
"""What does a rewritten kernel spare the hypervisor, kind by kind, and does anything grow?"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.conftest import InitramfsBuilder, KernelFinder
from tests.emu.hypervised_boot import boot
from vmipatch.emu.exits import ExitKind
from vmipatch.emu.modes import Mode
from vmipatch.emu.report import Call, RunResult

pytestmark = pytest.mark.kernels

AT_MOST_LEFT = 0.001
AT_MOST_OFF = 0.02
AT_MOST_OFF_WITH_TIME = 0.05
FOLLOW_TIME = {"port reads", "port writes", "writes of system registers, invlpg"}
"""Kinds for which 2 % cannot be promised: they follow the timer's ticks, not the workload alone. A
tick writes to the interrupt controller and may switch tasks, which writes CR3; the serial line is
polled until it is free. baseline.sh takes 1,431 ticks instead of 1,589 (less code is executed, so
less virtual time passes); port reads were 2.3 % fewer, writes 3.6 %, these CR writes 3.5 %."""

SHORT, WHOLE = "short.sh", "baseline.sh"
SCRIPTS = pytest.mark.parametrize("script", [SHORT, pytest.param(WHOLE, marks=pytest.mark.slow)])

OF_A_SHORT_RUN = {SHORT: 10, WHOLE: 0}
"""Left whatever the workload, less than a thousandth only of the whole one: two popf and two reads
of control registers before VMI_Init, three iret that found an interrupt waiting."""
ONCE_IN_A_BOOT = 10
"""What the runtime adds to a kind, whatever the workload: it looks for the ROM where no memory is,
ten reads (of about a hundred in all, so 2 % would be two), and announces itself in eight calls."""

SPARED = {
    "cli": (ExitKind.CLI,),
    "pushf": (ExitKind.PUSHF,),
    "popf": (ExitKind.POPF,),
    "iret": (ExitKind.IRET, ExitKind.HYPERCALL_IRET),
    "control register reads": (ExitKind.CR_READ,),
    "descriptor register reads": (ExitKind.TABLE_STORE,),
    "rdtsc": (Call.RDTSC,),
}
"""What the ROM does by itself; an iret that the hypervisor is asked for counts as one."""

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
"""What the hypervisor must see in both modes, whether by a fault or by a call."""

NEW = {
    ExitKind.STI, ExitKind.HYPERCALL_DELIVER, ExitKind.HYPERCALL_INIT, ExitKind.FALLBACK,
    ExitKind.ROM, ExitKind.USER_FLAGS, ExitKind.USER_OBSERVED,
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


def _count(result: RunResult, kinds: tuple[ExitKind | Call, ...]) -> int:
    found = result.statistics
    return sum(
        found.traps[kind] if isinstance(kind, ExitKind) else found.calls[kind] for kind in kinds
    )


def measure(
    script: str, kernel: KernelFinder, rewritten: KernelFinder, initramfs: InitramfsBuilder
) -> Gain:
    """Boot tiny twice: the original trapped, the rewritten one paravirtual and unaudited."""
    initrd = str(initramfs(script, ()))
    trapped = boot(Mode.TRAP, str(kernel("tiny")), initrd)
    paravirtual = boot(Mode.PARAVIRT, str(rewritten("tiny")), initrd)
    trapped.check()
    paravirtual.check()
    return Gain(trapped.result, paravirtual.result)


@SCRIPTS
def test_what_the_rom_does_by_itself_leaves_the_guest_no_more(
    kernel: KernelFinder, rewritten: KernelFinder, initramfs: InitramfsBuilder, script: str
) -> None:
    gain = measure(script, kernel, rewritten, initramfs)
    table = {name: gain.counts(kinds) for name, kinds in SPARED.items()}
    too_many = {
        name: (before, after)
        for name, (before, after) in table.items()
        if after > max(AT_MOST_LEFT * before, OF_A_SHORT_RUN[script])
    }
    assert not too_many, table
    assert table["cli"][0] > 1000, "trap mode saw them"


@SCRIPTS
def test_sti_leaves_the_guest_only_to_deliver(
    kernel: KernelFinder, rewritten: KernelFinder, initramfs: InitramfsBuilder, script: str
) -> None:
    gain = measure(script, kernel, rewritten, initramfs)
    before, after = gain.counts((ExitKind.STI,))
    assert before > 1000 and after == 0
    (_, delivered) = gain.counts((ExitKind.HYPERCALL_DELIVER,))
    assert 0 < delivered <= gain.paravirtual.statistics.lines.total(), "an interrupt for each"


@SCRIPTS
def test_every_other_kind_stays_within_a_fiftieth(
    kernel: KernelFinder, rewritten: KernelFinder, initramfs: InitramfsBuilder, script: str
) -> None:
    """Page faults: 10,931 and 10,920 with baseline.sh. With workload.sh they miss the bound (14,031
    and 14,559, 3.8 % more) because processes are laid out at random, and the random numbers depend
    on the time: with `norandmaps` it is 14,061 in both modes.
    """
    gain = measure(script, kernel, rewritten, initramfs)
    table = {name: gain.counts(kinds) for name, kinds in KEPT.items()}
    off = {
        name: (before, after)
        for name, (before, after) in table.items()
        if abs(after - before) > max(_allowed(name) * before, ONCE_IN_A_BOOT)
    }
    assert not off, table


def _allowed(name: str) -> float:
    return AT_MOST_OFF_WITH_TIME if name in FOLLOW_TIME else AT_MOST_OFF


def test_every_kind_of_exit_is_spoken_of() -> None:
    groups = (*SPARED.values(), *KEPT.values())
    kinds = [kind for group in groups for kind in group]
    assert len(kinds) == len(set(kinds))
    assert set(kinds) | NEW | {Call.INTERRUPT} == {*ExitKind, *Call}


@pytest.mark.slow
def test_trap_mode_makes_as_many_exits_as_the_prototype(
    kernel: KernelFinder, initramfs: InitramfsBuilder
) -> None:
    """The baseline of every ratio: a prototype made 635,000 on the same workload."""
    trapped = boot(Mode.TRAP, str(kernel("tiny")), str(initramfs(WHOLE, ())))
    assert 550_000 <= trapped.result.statistics.total <= 700_000

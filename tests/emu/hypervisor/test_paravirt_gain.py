# SPDX-License-Identifier: MIT
"""What does a rewritten kernel spare the hypervisor, kind by kind, and does anything grow?"""

from __future__ import annotations

import pytest

from tests.conftest import InitramfsBuilder, KernelFinder
from tests.emu.hypervised_boot import boot
from tests.emu.hypervisor.exit_gain import KEPT, NEW, SPARED, Gain
from vmipatch.choices import Mode
from vmipatch.emu.hypervisor.exits import ExitKind
from vmipatch.emu.report import Call

pytestmark = pytest.mark.kernels

FOLLOW_TIME = dict.fromkeys(
    ("port reads", "port writes", "writes of system registers, invlpg"), 0.05
)
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
"""Exits that the runtime adds to a kind, in any workload: it looks for the ROM where no memory is,
ten reads (of about a hundred in all, so 2 % would be two), and announces itself in eight calls."""


def measure(
    script: str, kernel: KernelFinder, rewritten: KernelFinder, initramfs: InitramfsBuilder
) -> Gain:
    """Boot tiny twice: the original trapped, the rewritten one paravirtual and unaudited.

    Processes are not laid out at random: the random numbers depend on the time, and page faults
    on the layout.
    """
    initrd = str(initramfs(script, ()))
    trapped = boot(Mode.TRAP, str(kernel("tiny")), initrd, append="norandmaps")
    paravirtual = boot(Mode.PARAVIRT, str(rewritten("tiny")), initrd, append="norandmaps")
    trapped.check()
    paravirtual.check()
    return Gain(trapped.result, paravirtual.result)


@SCRIPTS
def test_what_the_rom_does_by_itself_leaves_the_guest_no_more(
    kernel: KernelFinder, rewritten: KernelFinder, initramfs: InitramfsBuilder, script: str
) -> None:
    gain = measure(script, kernel, rewritten, initramfs)
    assert not gain.left(OF_A_SHORT_RUN[script])
    assert gain.counts(SPARED["cli"])[0] > 1000, "trap mode saw them"


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
    """Page faults among them: with workload.sh 14,061 in both modes, and 3.8 % apart where
    processes are laid out at random.
    """
    gain = measure(script, kernel, rewritten, initramfs)
    assert not gain.off(ONCE_IN_A_BOOT, FOLLOW_TIME)


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

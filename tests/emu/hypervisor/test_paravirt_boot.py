# SPDX-License-Identifier: MIT
"""Does a rewritten Linux run paravirtually, and is it worth it?"""

from __future__ import annotations

import pytest

from tests.conftest import InitramfsBuilder, KernelFinder
from tests.emu.hypervised_boot import ONE_PROCESSOR, boot
from tests.support.console import GuestConsole
from vmipatch.choices import Mode
from vmipatch.emu.hypervisor.exits import ExitKind

pytestmark = pytest.mark.kernels


def test_rewritten_kernel_runs_to_the_end_of_its_workload(
    rewritten: KernelFinder, initramfs: InitramfsBuilder
) -> None:
    done = boot(Mode.PARAVIRT, str(rewritten("tiny")), str(initramfs("short.sh", ())))
    done.check()
    assert "vmi: paravirtual" in done.console
    assert done.result.statistics.traps[ExitKind.HYPERCALL_INIT] == 1


def test_rewritten_kernel_leaves_a_hundredth_of_the_sensitive_exits(
    kernel: KernelFinder, rewritten: KernelFinder, initramfs: InitramfsBuilder
) -> None:
    initrd = str(initramfs("short.sh", ()))
    trapped = boot(Mode.TRAP, str(kernel("tiny")), initrd)
    paravirtual = boot(Mode.PARAVIRT, str(rewritten("tiny")), initrd)
    assert 100 * paravirtual.sensitive < trapped.sensitive
    said = GuestConsole.parse(trapped.console), GuestConsole.parse(paravirtual.console)
    assert said[0].test == said[1].test


def test_two_paravirtual_runs_are_the_same_to_the_last_byte(
    rewritten: KernelFinder, initramfs: InitramfsBuilder
) -> None:
    arguments = (Mode.PARAVIRT, str(rewritten("tiny")), str(initramfs("short.sh", ())))
    first, second = boot(*arguments), boot(*arguments, again=1)
    assert first == second


def test_unmodified_kernel_ignores_the_rom(
    kernel: KernelFinder, initramfs: InitramfsBuilder
) -> None:
    done = boot(Mode.PARAVIRT, str(kernel("tiny")), str(initramfs("short.sh", ())))
    done.check()
    assert done.result.statistics.traps[ExitKind.HYPERCALL_INIT] == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "tiny-os", "smp-pae"])
def test_whole_workload(rewritten: KernelFinder, initramfs: InitramfsBuilder, name: str) -> None:
    append = ONE_PROCESSOR if name == "smp-pae" else ""
    done = boot(Mode.PARAVIRT, str(rewritten(name)), str(initramfs("workload.sh", ())), append)
    done.check()

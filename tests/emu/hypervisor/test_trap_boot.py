# SPDX-License-Identifier: MIT
"""Does an unmodified Linux run at CPL 1 from its first instruction on?"""

from __future__ import annotations

import pytest

from tests.conftest import InitramfsBuilder, KernelFinder
from tests.emu.hypervised_boot import ONE_PROCESSOR, boot
from vmipatch.choices import Mode
from vmipatch.emu.hypervisor.exits import ExitKind
from vmipatch.emu.report import Call

pytestmark = pytest.mark.kernels


def test_unmodified_kernel_runs_to_the_end_of_its_workload(
    kernel: KernelFinder, initramfs: InitramfsBuilder
) -> None:
    done = boot(Mode.TRAP, str(kernel("tiny")), str(initramfs("short.sh", ())))
    done.check()
    statistics = done.result.statistics
    assert statistics.traps.total() == statistics.calls[Call.INTERRUPT]
    for kind in (ExitKind.CLI, ExitKind.STI, ExitKind.PUSHF, ExitKind.IRET):
        assert statistics.traps[kind] > 1000
    assert statistics.traps[ExitKind.PROTECTION] == 0


def test_two_trapped_runs_are_the_same_to_the_last_byte(
    kernel: KernelFinder, initramfs: InitramfsBuilder
) -> None:
    arguments = (Mode.TRAP, str(kernel("tiny")), str(initramfs("short.sh", ())))
    first, second = boot(*arguments), boot(*arguments, again=1)
    assert first == second


@pytest.mark.slow
def test_pae_kernel_runs_to_the_end_of_its_workload(
    kernel: KernelFinder, initramfs: InitramfsBuilder
) -> None:
    initrd = str(initramfs("workload.sh", ()))
    boot(Mode.TRAP, str(kernel("smp-pae")), initrd, ONE_PROCESSOR).check()

# SPDX-License-Identifier: MIT
"""Does Linux run on the emulated PC, natively, and the same way each time?"""

from __future__ import annotations

from functools import cache

import pytest

from tests.conftest import InitramfsBuilder, KernelFinder
from tests.emu.guest import SECOND_NS
from tests.support.console import GuestConsole, complaints
from vmipatch.emu.build import MachineSpec, build_machine
from vmipatch.emu.loader import Boot
from vmipatch.emu.options import MachineOptions
from vmipatch.emu.report import Call, Ending, RunResult
from vmipatch.emu.terminal import Silence
from vmipatch.image.elf import ElfImage

pytestmark = pytest.mark.kernels

COMMAND_LINE = (
    "console=ttyS0 earlyprintk=serial,ttyS0 reboot=t panic=-1 "
    "tsc=reliable tsc_early_khz=1000000 lpj=5000000"
)
PER_KERNEL = {"tiny": "", "tiny-os": "", "smp-pae": "nosmp noapic nolapic acpi=off nokaslr"}
LIMIT_NS = 120 * SECOND_NS


@cache
def run(vmlinux: str, initrd: str, append: str, again: int = 0) -> tuple[RunResult, str, str]:
    """Result, console and digest of the memory; `again` is for a run that must not be reused."""
    terminal = Silence()
    machine = build_machine(MachineSpec(options=MachineOptions(limit_ns=LIMIT_NS)), terminal)
    with open(vmlinux, "rb") as kernel, open(initrd, "rb") as archive:
        image = ElfImage.parse(kernel.read(), vmlinux)
        result = machine.run(Boot(image, f"{COMMAND_LINE} {append}", archive.read()))
    text = terminal.heard.decode(errors="replace").replace("\r\n", "\n")
    return result, text, machine.memory.digest()


def check(result: RunResult, console: str) -> None:
    assert result.ending is Ending.RESET_BY_FAULT, f"{result.details}\n{console}"
    assert GuestConsole.parse(console).done, console
    assert not complaints(console)


@pytest.mark.parametrize("name", ["tiny", pytest.param("tiny-os", marks=pytest.mark.slow)])
def test_kernel_boots_to_the_end_of_its_workload(
    kernel: KernelFinder, initramfs: InitramfsBuilder, name: str
) -> None:
    result, console, _ = run(str(kernel(name)), str(initramfs("workload.sh", ())), PER_KERNEL[name])
    check(result, console)
    assert result.statistics.calls[Call.INVALID] == 0


def test_rewritten_kernel_boots_to_the_end_of_its_workload(
    rewritten: KernelFinder, initramfs: InitramfsBuilder
) -> None:
    result, console, _ = run(str(rewritten("tiny")), str(initramfs("workload.sh", ())), "")
    check(result, console)


@pytest.mark.slow
def test_pae_kernel_boots_without_meltdown(
    kernel: KernelFinder, initramfs: InitramfsBuilder
) -> None:
    append = PER_KERNEL["smp-pae"]
    result, console, _ = run(str(kernel("smp-pae")), str(initramfs("workload.sh", ())), append)
    check(result, console)
    assert "page tables isolation: enabled" not in console
    assert "Meltdown" not in console


def test_two_runs_are_the_same_to_the_last_byte(
    kernel: KernelFinder, initramfs: InitramfsBuilder
) -> None:
    vmlinux, initrd = str(kernel("tiny")), str(initramfs("whereabouts.sh", ()))
    first = run(vmlinux, initrd, "")
    check(*first[:2])
    second = run(vmlinux, initrd, "", again=1)
    assert first[1:] == second[1:]
    assert first[0].as_json() == second[0].as_json()

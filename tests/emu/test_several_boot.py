# SPDX-License-Identifier: MIT
"""Does an SMP kernel boot with its plain command line, in every mode, and the same each time?"""

from __future__ import annotations

import pytest

from tests.conftest import InitramfsBuilder, KernelFinder
from tests.emu.several_boot import OLD_TABLES, PLAIN, SeveralBoot, boot
from vmipatch.choices import Mode
from vmipatch.emu.report import Ending

pytestmark = pytest.mark.kernels

NAME = "smp-pae"
KERNELS = {Mode.PARAVIRT: "rewritten", Mode.AUDIT: "rewritten"}


def booted(
    request: pytest.FixtureRequest,
    initramfs: InitramfsBuilder,
    mode: Mode,
    script: str,
    append: str = PLAIN,
    cpus: int = 2,
    again: int = 0,
) -> SeveralBoot:
    find: KernelFinder = request.getfixturevalue(KERNELS.get(mode, "kernel"))
    return boot(mode, str(find(NAME)), str(initramfs(script, ())), append, cpus, again)


@pytest.mark.parametrize("mode", [Mode.NATIVE, Mode.PARAVIRT])
def test_kernel_uses_both_processors_and_switches_the_machine_off(
    request: pytest.FixtureRequest, initramfs: InitramfsBuilder, mode: Mode
) -> None:
    done = booted(request, initramfs, mode, "off.sh")
    done.check(Ending.POWERED_OFF)
    assert "processors 2" in done.console
    assert "Using ACPI (MADT) for SMP configuration" in done.console
    for name in ("LOC", "RES", "CAL"):
        assert min(done.interrupts(name)) > 0, name
    if mode is Mode.PARAVIRT:
        assert "vmi: paravirtual" in done.console


@pytest.mark.slow
@pytest.mark.parametrize("append", [PLAIN, OLD_TABLES])
@pytest.mark.parametrize("mode", Mode)
def test_whole_workload_with_two(
    request: pytest.FixtureRequest, initramfs: InitramfsBuilder, mode: Mode, append: str
) -> None:
    done = booted(request, initramfs, mode, "several.sh", append)
    done.check()
    done.check_all_worked()


@pytest.mark.slow
@pytest.mark.parametrize("mode", Mode)
def test_whole_workload_with_four(
    request: pytest.FixtureRequest, initramfs: InitramfsBuilder, mode: Mode
) -> None:
    done = booted(request, initramfs, mode, "several.sh", cpus=4)
    done.check()
    done.check_all_worked()


@pytest.mark.slow
@pytest.mark.parametrize("mode", [Mode.NATIVE, Mode.PARAVIRT])
def test_processor_goes_and_comes_back(
    request: pytest.FixtureRequest, initramfs: InitramfsBuilder, mode: Mode
) -> None:
    """INIT of a processor that has run, and STARTUP: three times."""
    done = booted(request, initramfs, mode, "hotplug.sh")
    done.check()
    assert done.console.count("\nprocessors 1\n") == 3
    assert done.console.count("\nprocessors 2\n") == 3


@pytest.mark.slow
@pytest.mark.parametrize("mode", Mode)
def test_two_runs_are_the_same_to_the_last_byte(
    request: pytest.FixtureRequest, initramfs: InitramfsBuilder, mode: Mode
) -> None:
    first, second = (
        booted(request, initramfs, mode, "several.sh", again=number) for number in range(2)
    )
    first.check()
    assert first.memory == second.memory
    assert first.console == second.console
    assert first.result.blocks == second.result.blocks


@pytest.mark.slow
def test_page_table_isolation_natively(
    request: pytest.FixtureRequest, initramfs: InitramfsBuilder
) -> None:
    done = booted(request, initramfs, Mode.NATIVE, "off.sh", f"{PLAIN} pti=on")
    done.check(Ending.POWERED_OFF)
    assert "page tables isolation: enabled" in done.console

# SPDX-License-Identifier: MIT
"""Is a boot that is watched the boot that is not watched, with all that verify wants of it?"""

from __future__ import annotations

import pytest

from tests.conftest import KernelFinder
from vmipatch.choices import Flavor, Mode
from vmipatch.emu.build import MachineSpec, build_machine
from vmipatch.emu.loader import Boot
from vmipatch.emu.options import MachineOptions
from vmipatch.emu.report import Ending
from vmipatch.emu.terminal import Silence
from vmipatch.image.elf import ElfImage
from vmipatch.rom import build_rom
from vmipatch.verify import workload
from vmipatch.verify.boots import COMMAND_LINE, BootOrder, BootResult, Phase, run_boot
from vmipatch.verify.coverage import Sites
from vmipatch.verify.user_space import Detail

pytestmark = pytest.mark.kernels

LIMIT_NS = 60_000_000_000


def order(kernel: bytes, phase: Phase, limit_ns: int = LIMIT_NS) -> BootOrder:
    sites = Sites.of(ElfImage.parse(kernel, "tiny"))
    vas = tuple(site.va for site in sites.annotated)
    initrd = workload.initramfs()
    return BootOrder(phase, kernel, "tiny", initrd, COMMAND_LINE, limit_ns, Detail.EXACT, vas)


@pytest.fixture(scope="module")
def kernel_data(rewritten: KernelFinder) -> bytes:
    return rewritten("tiny").read_bytes()


@pytest.fixture(scope="module")
def audited(kernel_data: bytes) -> BootResult:
    return run_boot(order(kernel_data, Phase.AUDIT), lambda now_ns, line: None)


def test_watching_changes_nothing(kernel_data: bytes, audited: BootResult) -> None:
    terminal = Silence()
    rom = build_rom(Flavor.PARAVIRT).data
    machine = build_machine(
        MachineSpec(Mode.AUDIT, MachineOptions(limit_ns=LIMIT_NS), rom), terminal
    )
    image = ElfImage.parse(kernel_data, "tiny")
    alone = machine.run(Boot(image, COMMAND_LINE, workload.initramfs()))
    assert (alone.blocks, alone.now_ns) == (audited.blocks, audited.now_ns)
    assert terminal.heard.decode().replace("\r\n", "\n") == audited.console


def test_every_step_of_the_workload_succeeds(audited: BootResult) -> None:
    lines = [line for line in audited.console.splitlines() if line.startswith(workload.PREFIX)]
    assert lines[-1] == workload.DONE
    assert len(lines) > 10 and all(line.endswith(" ok") for line in lines[:-1])


def test_boot_knows_sites_processes_and_end(audited: BootResult) -> None:
    assert audited.became_paravirtual and audited.ended_by_guest
    assert len(audited.executed) > 500
    assert len(audited.traces) > 15
    assert audited.traces[0].count("getpid() = pid") > 1000
    assert audited.traces[0][-1].startswith("reboot(")
    assert "emergency_restart" in audited.place


def test_sites_count_only_where_there_is_a_switch(kernel_data: bytes) -> None:
    heard: list[tuple[int, str]] = []
    limited = order(kernel_data, Phase.NATIVE, limit_ns=300_000_000)
    result = run_boot(limited, lambda now_ns, line: heard.append((now_ns, line)))
    assert (result.ending, result.executed) == (Ending.LIMIT, frozenset())
    assert not result.became_paravirtual and not result.traces
    assert heard and heard[0][0] <= heard[-1][0]

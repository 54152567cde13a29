# SPDX-License-Identifier: MIT
"""Does a paravirtual kernel execute its sites as calls, but for a thousandth that says why?"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import InitramfsBuilder, KernelFinder
from tests.emu.hypervised_boot import COMMAND_LINE, LIMIT_NS
from tests.emu.ring1_guest import paravirt_rom
from tests.verify.executions import (
    UNPATCHED,
    ExecutionCounter,
    Executions,
    SiteExecutions,
)
from vmipatch.choices import Mode
from vmipatch.emu.build import MachineSpec, build_machine
from vmipatch.emu.hypervisor.paravirt import ParavirtPrivilege
from vmipatch.emu.loader import Boot
from vmipatch.emu.options import MachineOptions
from vmipatch.emu.report import EmulatedInstruction, Ending
from vmipatch.image.elf import ElfImage
from vmipatch.scan.site import Reason
from vmipatch.verify.coverage import Sites
from vmipatch.vmi.calls import VmiCall

MOST_NATIVE_PERCENT = 0.1
TABLE_LOADS = {"lgdt", "lidt", "lldt", "ltr"}
"""They fault by their operand, so none has a thunk (decision 0028); each is loaded once or so."""
EXPECTED_REASONS = {Reason.NO_TRANSLATION.value} | {
    UNPATCHED.format(call.name) for call in (VmiCall.RDMSR, VmiCall.WRMSR)
}
"""MSRs fault at CPL 1, and the kernel's exception table must find the site (rom/entries.py)."""


def count_executions(
    vmlinux: Path, initrd: Path
) -> tuple[Executions, tuple[EmulatedInstruction, ...]]:
    """Boot a rewritten kernel to the end of its workload, audited and counted."""
    image = ElfImage.parse(vmlinux.read_bytes(), vmlinux.name)
    options = MachineOptions(limit_ns=LIMIT_NS)
    machine = build_machine(MachineSpec(Mode.AUDIT, options, paravirt_rom()))
    privilege = machine.privilege
    assert isinstance(privilege, ParavirtPrivilege)
    counter = ExecutionCounter(machine.cpu, machine.mmu, image, lambda: privilege.is_paravirtual)
    result = machine.run(Boot(image, COMMAND_LINE, initrd.read_bytes()))
    assert result.ending is Ending.RESET_BY_FAULT, result
    return counter.executions(), privilege.findings()


@pytest.mark.kernels
@pytest.mark.parametrize(
    ("script", "at_least"),
    [("short.sh", 10_000), pytest.param("baseline.sh", 500_000, marks=pytest.mark.slow)],
)
def test_a_thousandth_of_all_site_executions_is_native(
    rewritten: KernelFinder, initramfs: InitramfsBuilder, script: str, at_least: int
) -> None:
    """Measured: 21 of 164,993: nine rdmsr, four wrmsr, eight loads of descriptor tables."""
    vmlinux = rewritten("tiny")
    executions, findings = count_executions(vmlinux, initramfs(script, ()))
    reasons = executions.by_reason()
    print(f"{executions.native} of {executions.total} native: {dict(reasons)}")
    assert executions.total > at_least, "the counter looked"
    assert executions.native_percent <= MOST_NATIVE_PERCENT, reasons
    assert set(reasons) <= EXPECTED_REASONS, reasons
    without_thunk = {s.kind for s in executions.sites if s.reason == Reason.NO_TRANSLATION.value}
    assert without_thunk <= TABLE_LOADS
    listed = _listed(vmlinux)
    assert not [finding for finding in findings if finding.va not in listed]
    native = {site.va for site in executions.sites if site.reason}
    assert {finding.va for finding in findings} <= native, "what is intercepted was counted"


def _listed(vmlinux: Path) -> set[int]:
    sites = Sites.of(ElfImage.parse(vmlinux.read_bytes(), vmlinux.name))
    return {site.va for site in sites.annotated} | {site.va for site in sites.native}


def test_share_of_native_executions_is_by_reason() -> None:
    executions = Executions(
        (
            SiteExecutions(0x10, "cli", "f", "", 90),
            SiteExecutions(0x20, "rdmsr", "f", "first", 4),
            SiteExecutions(0x30, "mov ss", "g", "second", 5),
            SiteExecutions(0x40, "rdmsr", "g", "first", 1),
        )
    )
    assert executions.total == 100
    assert executions.native_percent == 10
    assert executions.by_reason() == {"first": 5, "second": 5}


def test_nothing_executed_is_nothing_native() -> None:
    assert Executions(()).native_percent == 0

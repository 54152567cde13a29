# SPDX-License-Identifier: MIT
"""What does a verdict make of machines in lockstep?"""

from __future__ import annotations

from tests.verify.evidence import diverged, evidence, lockstep, world_end
from vmipatch.emu.report import Ending
from vmipatch.verify import workload
from vmipatch.verify.judge import judge
from vmipatch.verify.lockstep.check import Lockstep
from vmipatch.verify.lockstep.events import EventKind
from vmipatch.verify.verdict import Aspect, Finding, Statement


def findings(found: Lockstep) -> tuple[Finding, ...]:
    verdict = judge(evidence(lockstep=found))
    assert (verdict.statement is Statement.FAILS) == bool(verdict.findings)
    return verdict.findings


def test_machines_that_agree_to_the_end_prove_and_boot() -> None:
    assert not findings(lockstep())
    assert judge(evidence(lockstep=lockstep())).statement is Statement.PROVEN_AND_BOOTED


def test_divergence_is_a_finding_that_says_what_each_machine_said() -> None:
    (finding,) = findings(diverged("read = 4", "read = 4", "read = 5"))
    assert finding.aspect is Aspect.DIVERGENCE
    assert "task 1, event 5" in finding.message and "`read = 5`" in finding.message


def test_wrong_flag_is_a_finding_by_itself() -> None:
    (finding,) = findings(diverged(None, None, "it is off", kind=EventKind.FLAG))
    assert finding.message == "task 1: it is off"


def test_ends_that_no_kernel_meant_are_findings_though_they_are_the_same() -> None:
    ends = (world_end(ending=Ending.LIMIT, said=()),) * 3
    assert [f.aspect for f in findings(lockstep(ends=ends))] == [Aspect.ENDING] * 3


def test_workload_that_fails_everywhere_and_a_kernel_that_finds_no_rom_are_findings() -> None:
    failed = world_end(said=(f"{workload.PREFIX}fork {workload.FAILED}", workload.DONE))
    assert {f.aspect for f in findings(lockstep(ends=(failed,) * 3))} == {Aspect.WORKLOAD}
    native = world_end(became_paravirtual=False, flags_checked=0)
    assert {f.aspect for f in findings(lockstep(ends=(native,) * 3))} == {Aspect.SWITCH}

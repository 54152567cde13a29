# SPDX-License-Identifier: MIT
"""Does the verdict tell the truth about what was and was not looked at?"""

from __future__ import annotations

from typing import Any

import pytest

from tests.verify.evidence import CONSOLE, TRACE, boot, evidence, full_verdict
from vmipatch.emu.report import EmulatedInstruction as Emulated
from vmipatch.emu.report import Ending
from vmipatch.verify.boots import Phase
from vmipatch.verify.coverage import NativeSite, Sites
from vmipatch.verify.judge import judge
from vmipatch.verify.translations import Translations
from vmipatch.verify.verdict import Aspect, Outcome, Statement


def test_boots_and_proof_that_hold_are_called_so() -> None:
    verdict = full_verdict()
    assert verdict.statement is Statement.PROVEN_AND_BOOTED
    assert verdict.holds and not verdict.findings


def test_nothing_is_proven_without_the_original() -> None:
    verdict = judge(evidence(boot(Phase.AUDIT), static=None, original=None))
    assert verdict.statement is Statement.BOOTED
    assert verdict.phases[0].outcome is Outcome.NOT_DONE


def test_proof_alone_is_not_called_booted() -> None:
    assert judge(evidence(coverage=None)).statement is Statement.PROVEN


@pytest.mark.parametrize(
    ("changes", "aspect"),
    [
        ({"ending": Ending.LIMIT}, Aspect.ENDING),
        ({"ending": Ending.TRIPLE_FAULT}, Aspect.ENDING),
        ({"ending": None}, Aspect.ENDING),
        ({"traces": ()}, Aspect.WORKLOAD),
        ({"traces": (TRACE[:2],)}, Aspect.WORKLOAD),
        ({"console": CONSOLE.replace("calls ok", "calls FAILED")}, Aspect.WORKLOAD),
        ({"console": CONSOLE.replace("verify: done\n", "")}, Aspect.WORKLOAD),
        ({"console": CONSOLE.replace("6.1", "6.2")}, Aspect.CONSOLE),
        ({"console": f"{CONSOLE}BUG: unable to handle page fault\n"}, Aspect.COMPLAINT),
        ({"traces": (("getpid() = -1", *TRACE[1:]),)}, Aspect.USER_SPACE),
        ({"became_paravirtual": False}, Aspect.SWITCH),
    ],
)
def test_each_thing_that_goes_wrong_is_a_finding(changes: dict[str, Any], aspect: Aspect) -> None:
    verdict = full_verdict(**changes)
    assert verdict.statement is Statement.FAILS
    assert aspect in {finding.aspect for finding in verdict.findings}
    assert {finding.phase for finding in verdict.findings} == {Phase.AUDIT}


def emulated(va: int, unprivileged: bool) -> Emulated:
    name = "pushf" if unprivileged else "cli"
    return Emulated(va, b"\x9c" if unprivileged else b"\xfa", name, unprivileged, 1)


def test_site_that_the_runtime_did_not_patch_is_named() -> None:
    sites = evidence().sites
    site = next(site for site in sites.annotated if site.kind == "cli")
    verdict = full_verdict(emulated=(emulated(site.va, False),))
    (finding,) = verdict.findings
    assert finding.aspect is Aspect.AUDIT
    assert site.function in finding.place and f"{site.va:#x}" in finding.place


def test_site_of_a_call_that_no_rom_serves_may_stay() -> None:
    sites = evidence().sites
    site = next(site for site in sites.annotated if site.kind == "wrmsr")
    assert full_verdict(emulated=(emulated(site.va, False),)).holds


def test_sensitive_instruction_that_nobody_knew_is_named() -> None:
    va = 0xC1234567
    verdict = full_verdict(emulated=(emulated(va, True),), functions={va: "forgotten+0x7"})
    assert verdict.statement is Statement.FAILS
    assert "forgotten+0x7 (0xc1234567)" in str(verdict.findings[0])
    assert "silently wrong" in str(verdict.findings[0])


def test_translation_that_differs_is_a_finding() -> None:
    wrong = Translations(9, 90, ("do_exit+0x8 (0xc1000008): pushf (thunk): eflags",))
    verdict = judge(evidence(boot(Phase.AUDIT), translations=wrong))
    assert verdict.statement is Statement.FAILS
    assert "do_exit+0x8 (0xc1000008)" in str(verdict.findings[0])


def test_coverage_below_what_is_required_is_a_statement_of_its_own() -> None:
    boots = [boot(Phase.AUDIT)]
    enough, short = (judge(evidence(*boots, required_percent=p)) for p in (10.0, 99.0))
    assert enough.statement is Statement.PROVEN_AND_BOOTED
    assert short.statement is Statement.BELOW and short.holds


def test_finding_outweighs_coverage() -> None:
    boots = [boot(Phase.AUDIT, ending=Ending.LIMIT)]
    assert judge(evidence(*boots, required_percent=99.0)).statement is Statement.FAILS


def test_second_instruction_of_a_native_pair_is_listed_with_it() -> None:
    found = evidence().sites
    pair = NativeSite(0xC1234560, "sti+hlt", "idle", True, "stays", (0xC1234561,))
    sites = Sites(found.annotated, (*found.native, pair))
    for va, holds in ((0xC1234560, True), (0xC1234561, True), (0xC1234562, False)):
        seen = boot(Phase.AUDIT, emulated=(emulated(va, False),))
        assert judge(evidence(seen, sites=sites)).holds is holds


def test_race_that_is_lost_is_told_with_the_length_of_its_turns() -> None:
    lost = boot(Phase.RACED, turn_len=1500, traces=(TRACE[:-1],))
    won = boot(Phase.RACED, turn_len=15000)
    verdict = judge(evidence(boot(Phase.ORIGINAL), cpus=2, raced=(lost, won)))
    assert not verdict.holds
    assert verdict.findings
    assert all(each.message.startswith("in turns of 1500 bytes: ") for each in verdict.findings)
    assert judge(evidence(boot(Phase.ORIGINAL), cpus=2, raced=(won,))).holds


def test_processors_that_the_rewritten_kernel_does_not_start_are_a_finding() -> None:
    both, one = boot(Phase.ORIGINAL, processors=2), boot(Phase.NATIVE)
    verdict = judge(evidence(both, one, cpus=2))
    assert [str(finding) for finding in verdict.findings] == [
        "rewritten, native: workload: processors that executed code: 1, "
        "in the boot it is compared with 2"
    ]
    assert verdict.phases[2].what.endswith(" on 2 processors")
    verdict = judge(evidence(one, cpus=2))
    assert verdict.holds
    assert verdict.phases[2].what.endswith(" on 1 of 2 processors")

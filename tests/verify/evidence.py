# SPDX-License-Identifier: MIT
"""How do tests of verdicts and reports get evidence without booting anything?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.verify.pair import small_pair
from vmipatch.choices import CAMPAIGN_STATES
from vmipatch.emu.report import Ending
from vmipatch.image.symbols import SymbolTable
from vmipatch.verify import workload
from vmipatch.verify.boots import MODES, BootResult, Phase
from vmipatch.verify.coverage import Sites, coverage_of
from vmipatch.verify.judge import judge
from vmipatch.verify.lockstep.check import Lockstep
from vmipatch.verify.lockstep.compare import Divergence, DivergentSide
from vmipatch.verify.lockstep.events import EventKind, SeenEvent
from vmipatch.verify.lockstep.report import headline, history
from vmipatch.verify.lockstep.world import NAMES, WorldEnd
from vmipatch.verify.static import check_static
from vmipatch.verify.translations import Translations
from vmipatch.verify.verdict import Evidence, Verdict
from vmipatch.verify.xen.interrupt_log import calls_of
from vmipatch.verify.xen.machine import XenBoot

CONSOLE = f"[    0.1] Linux version 6.1\nverify: calls ok\n{workload.DONE}\n"
TRACE = ("getpid() = pid", "write(1, *, 6) = 6", "reboot(0xfee1dead, 0x28121969, 1, 0) = ?")


def boot(phase: Phase, **changes: Any) -> BootResult:
    """A boot in which everything went well, but for `changes`."""
    paravirtual = phase in (Phase.AUDIT, Phase.MEASURED, Phase.RACED)
    good = BootResult(
        phase=phase,
        ending=Ending.RESET,
        details="",
        place="machine_restart+0x3 (0xc1000003)",
        now_ns=2_000_000_000 + 1000 * len(phase.value),
        blocks=1000,
        console=CONSOLE,
        traces=(TRACE,),
        executed=frozenset(),
        exits={"cli": 90_000, "page fault": 11}
        if phase is Phase.TRAPPED
        else {"cli": 3, "port read": 70_000},
        emulated=(),
        functions={},
        became_paravirtual=paravirtual,
        seconds=1.0,
    )
    return replace(good, **changes)


def evidence(*boots: BootResult, **changes: Any) -> Evidence:
    """Evidence about the small kernel, with a static proof that holds, and `boots`."""
    original, output = small_pair()
    sites = Sites.of(output)
    executed = frozenset(site.va for site in sites.annotated[::2])
    good = Evidence(
        kernel="small.vmi",
        original="small",
        sites=sites,
        static=check_static(original, output),
        boots={one.phase: one for one in boots},
        coverage=coverage_of(sites, executed),
        required_percent=None,
        own_workload=True,
        translations=Translations(9, 90, (), CAMPAIGN_STATES),
    )
    return replace(good, **changes)


def world_end(**changes: Any) -> WorldEnd:
    """The end of a machine in lockstep that went well, but for `changes`."""
    good = WorldEnd(Ending.RESET, "", "machine_restart+0x3", 2_000_000_000, 1000, 90, True, 70,
                    (workload.DONE,))  # fmt: skip
    return replace(good, **changes)


def lockstep(**changes: Any) -> Lockstep:
    """Three machines that did the same, but for `changes`."""
    compared = {EventKind.CONSOLE: 20, EventKind.CALL: 40, EventKind.RESULT: 30}
    return replace(Lockstep(compared, None, (world_end(),) * len(NAMES)), **changes)


def diverged(*texts: str | None, kind: EventKind = EventKind.RESULT) -> Lockstep:
    """Machines that say these texts in place of the same."""
    events = [
        None if text is None else SeenEvent(kind, "task 1", text, 7, 0xC1000003) for text in texts
    ]
    sides = tuple(DivergentSide(event, () if event is None else (event,)) for event in events)
    found = Divergence("task 1", 4, sides)
    tables = (SymbolTable.empty(),) * len(NAMES)
    return lockstep(
        divergence=found,
        ends=(None,) * len(NAMES),
        headline=headline(found),
        history=tuple(history(found, tables)),
    )


def on_xen(**changes: Any) -> XenBoot:
    """A boot as domain 0 that went well, but for `changes`."""
    good = XenBoot(
        hypervisor_sha256="0" * 64,
        console=f"vmi: paravirtual, 5 of 5 sites patched\n{CONSOLE}",
        xen_console="(XEN) Xen version 4\nvmi: domain 0 ends, 0 hypercalls were refused\n",
        how="",
        calls=dict(calls_of((TRACE,))),
        seconds=1.0,
    )
    return replace(good, **changes)


def full_verdict(**changes: Any) -> Verdict:
    """The verdict on boots of every kind; `changes` go into the audited one."""
    boots = [boot(phase) for phase in MODES if phase not in (Phase.AUDIT, Phase.RACED)]
    raced = tuple(boot(Phase.RACED, turn_len=length) for length in (1500, 15000))
    audited = boot(Phase.AUDIT, **changes)
    return judge(
        evidence(*boots, audited, lockstep=lockstep(), cpus=2, raced=raced, on_xen=on_xen())
    )

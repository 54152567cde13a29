# SPDX-License-Identifier: MIT
"""What do static check and boots together say of a rewritten kernel? Their findings, judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from vmipatch.choices import Flavor
from vmipatch.emu.report import EmulatedInstruction as Emulated
from vmipatch.rom.entries import RelocationType, relocation_type
from vmipatch.verify import user_space, workload
from vmipatch.verify.boots import BootResult, Phase
from vmipatch.verify.console import complaints, differences, new_warnings
from vmipatch.verify.coverage import Sites
from vmipatch.verify.lockstep.check import Lockstep
from vmipatch.verify.lockstep.events import EventKind
from vmipatch.verify.lockstep.world import NAMES
from vmipatch.verify.static.verdict import BYTES, RECOVERED
from vmipatch.verify.translations import Translations
from vmipatch.verify.verdict import (
    Aspect,
    Evidence,
    Finding,
    Outcome,
    PhaseVerdict,
    Statement,
    Verdict,
)
from vmipatch.verify.xen.compare import (
    call_differences,
    line_differences,
    new_complaints,
    workload_lines,
)
from vmipatch.verify.xen.machine import XenBoot
from vmipatch.vmi.calls import VmiCall

KEPT: Final = 20
"""Findings of one kind in one boot; more are only counted."""
RUNTIME_LINE: Final = "vmi: paravirtual"
"""The runtime's message when it has switched."""


def judge(evidence: Evidence) -> Verdict:
    """Ask every question that the evidence allows."""
    reference = evidence.boots.get(Phase.ORIGINAL) or evidence.boots.get(Phase.NATIVE)
    phases = [_judge_static(evidence)]
    if evidence.translations is not None:
        phases.append(_judge_translations(evidence.translations))
    phases += [_judge_boot(evidence, boot, reference) for boot in evidence.boots.values()]
    if evidence.raced:
        phases.append(_judge_races(evidence, reference))
    if evidence.lockstep is not None:
        phases.append(judge_lockstep(evidence.lockstep, own_workload=evidence.own_workload))
    if evidence.on_xen is not None:
        phases.append(_judge_xen(evidence.on_xen, reference))
    return Verdict(_statement(evidence, phases), tuple(phases), evidence)


def _statement(evidence: Evidence, phases: list[PhaseVerdict]) -> Statement:
    if any(phase.outcome is Outcome.FAILS for phase in phases):
        return Statement.FAILS
    required, coverage = evidence.required_percent, evidence.coverage
    if required is not None and (coverage is None or coverage.percent < required):
        return Statement.BELOW
    if evidence.static is None:
        return Statement.BOOTED if evidence.boots else Statement.EXECUTED
    booted = evidence.boots or evidence.lockstep is not None
    return Statement.PROVEN_AND_BOOTED if booted else Statement.PROVEN


def _judge_static(evidence: Evidence) -> PhaseVerdict:
    static = evidence.static
    if static is None:
        why = "it was not asked for" if evidence.original else "no --original was given"
        return PhaseVerdict(Phase.STATIC, Outcome.NOT_DONE, why)
    if static.holds:
        counts = static.counts
        instructions, records = counts.get("instructions", 0), counts.get("records", 0)
        what = f"{instructions} instructions, {records} records"
        if counts.get(RECOVERED):
            what += "; symbols and references of the original were recovered"
        if counts.get(BYTES):
            what += f"; all {counts[BYTES]} bytes of the bzImage"
        what += "".join(f"; {signature}" for signature in static.signatures)
        return PhaseVerdict(Phase.STATIC, Outcome.HOLDS, what)
    findings = tuple(
        Finding(Phase.STATIC, Aspect.STATIC, f"{f.place} ({f.va:#x})" if f.va else f.place,
                f"{f.rule.number} {f.message}")
        for f in static.findings
    )  # fmt: skip
    what = f"{sum(static.totals.values())} findings (`vmipatch explain VPnnn` tells more)"
    return PhaseVerdict(Phase.STATIC, Outcome.FAILS, what, findings)


def _judge_translations(found: Translations) -> PhaseVerdict:
    if not found.findings:
        what = f"{found.shapes} shapes, which {found.sites} sites have, in {found.states} states"
        return PhaseVerdict(Phase.TRANSLATIONS, Outcome.HOLDS, what)
    findings = tuple(
        Finding(Phase.TRANSLATIONS, Aspect.TRANSLATION, "", line) for line in found.findings
    )
    what = f"{len(findings)} shapes differ"
    return PhaseVerdict(Phase.TRANSLATIONS, Outcome.FAILS, what, findings)


def _judge_boot(evidence: Evidence, boot: BootResult, reference: BootResult | None) -> PhaseVerdict:
    findings = _findings(evidence, boot, reference)
    processes = "1 process" if len(boot.traces) == 1 else f"{len(boot.traces)} processes"
    what = f"{boot.calls} system calls of {processes}"
    if evidence.cpus > 1:
        of = "" if boot.processors == evidence.cpus else f"{boot.processors} of "
        what += f" on {of}{evidence.cpus} processors"
    if boot.phase is Phase.ORIGINAL and evidence.varied:
        what += f"; booted {len(evidence.varied)} times more, timer shifted"
    if not findings:
        return PhaseVerdict(boot.phase, Outcome.HOLDS, what)
    return PhaseVerdict(boot.phase, Outcome.FAILS, f"{len(findings)} findings", tuple(findings))


def _judge_races(evidence: Evidence, reference: BootResult | None) -> PhaseVerdict:
    """All boots with turns of other lengths; a finding names its length."""
    findings = tuple(
        replace(finding, message=f"in turns of {boot.turn_len} bytes: {finding.message}")
        for boot in evidence.raced
        for finding in _findings(evidence, boot, reference)
    )
    if findings:
        return PhaseVerdict(Phase.RACED, Outcome.FAILS, f"{len(findings)} findings", findings)
    lengths = ", ".join(str(boot.turn_len) for boot in evidence.raced)
    what = f"{len(evidence.raced)} boots, in turns of {lengths} bytes"
    return PhaseVerdict(Phase.RACED, Outcome.HOLDS, what)


def _findings(evidence: Evidence, boot: BootResult, reference: BootResult | None) -> list[Finding]:
    findings = [*_ending(boot), *_reached(evidence, boot)]
    if boot.phase is Phase.ORIGINAL:
        findings += [finding for each in evidence.varied for finding in _ending(each)]
    if reference is not None and reference is not boot:
        findings += _as_reference(evidence, boot, reference)
    elif evidence.own_workload:
        findings += _alone(boot)
    if boot.phase in (Phase.AUDIT, Phase.MEASURED, Phase.RACED):
        findings += _switched(boot)
    if boot.phase is Phase.AUDIT:
        findings += _audited(evidence.sites, boot)
    return findings


def _ending(boot: BootResult) -> Iterator[Finding]:
    """The run ends, and the guest means it to."""
    if not boot.ended_by_guest:
        when = ""
        if boot.timer_shift:
            when = f"with the timer shifted by {boot.timer_shift} thousandths of its period: "
        yield Finding(boot.phase, Aspect.ENDING, boot.place, when + _with_tail(boot.how, boot))


def _with_tail(message: str, boot: BootResult) -> str:
    lines = [line for line in boot.console.splitlines() if line.strip()]
    return f"{message}; the console ends with `{lines[-1].strip()}`" if lines else message


def _reached(evidence: Evidence, boot: BootResult) -> Iterator[Finding]:
    """User mode is reached, and our own workload comes through."""
    if not boot.traces:
        message = _with_tail("user mode is never reached", boot)
        yield Finding(boot.phase, Aspect.WORKLOAD, boot.place, message)
        return
    if not evidence.own_workload:
        return
    lines = [line.strip() for line in boot.console.splitlines()]
    own = [line for line in lines if line.startswith(workload.PREFIX)]
    yield from _told(boot.phase, own, boot.place)
    if not any(trace[-1].startswith("reboot(") for trace in boot.traces):
        yield Finding(boot.phase, Aspect.WORKLOAD, boot.place, "it does not come to reboot(2)")


def _told(phase: Phase, lines: Sequence[str], place: str) -> Iterator[Finding]:
    """The report of our own workload on itself, if it can say anything."""
    for line in lines:
        if line.endswith(workload.FAILED):
            yield Finding(phase, Aspect.WORKLOAD, "", f"`{line}`")
    if lines and workload.DONE not in lines:
        yield Finding(phase, Aspect.WORKLOAD, place, "it does not come to its end")


def judge_lockstep(found: Lockstep, *, own_workload: bool) -> PhaseVerdict:
    """Whether three machines did the same, to the end that their kernels meant."""
    phase = Phase.LOCKSTEP
    findings = []
    if found.divergence is not None:
        findings.append(Finding(phase, Aspect.DIVERGENCE, "", found.headline))
    elif not found.became_paravirtual:
        findings.append(Finding(phase, Aspect.SWITCH, "", "the kernel does not switch to the ROM"))
    for name, end in zip(NAMES, found.ends, strict=True):
        if end is not None and not end.ended_by_guest:
            findings.append(Finding(phase, Aspect.ENDING, end.place, f"{name}: {end.how}"))
        elif end is not None and own_workload:
            findings += _told(phase, end.said, end.place)
    if findings:
        return PhaseVerdict(phase, Outcome.FAILS, f"{len(findings)} findings", tuple(findings))
    calls, lines = (found.compared.get(kind, 0) for kind in (EventKind.CALL, EventKind.CONSOLE))
    events = sum(found.compared.values())
    what = (
        f"{events} events the same: {calls} system calls, {lines} console lines ..., "
        "on one processor each"
    )
    return PhaseVerdict(phase, Outcome.HOLDS, what)


def _judge_xen(found: XenBoot, reference: BootResult | None) -> PhaseVerdict:
    """Whether the kernel does on Xen what it does in `reference`, with the same workload."""
    phase = Phase.XEN
    findings: list[Finding] = []
    if found.how:
        findings.append(Finding(phase, Aspect.ENDING, "", found.how))
    if RUNTIME_LINE not in found.console:
        message = "the kernel does not switch to the ROM"
        findings.append(Finding(phase, Aspect.SWITCH, "", message))
    if found.refused is None:
        message = "the ROM does not come to tell how many hypercalls were refused"
        findings.append(Finding(phase, Aspect.HYPERCALL, "", message))
    elif found.refused:
        message = f"Xen refused {found.refused}"
        findings.append(Finding(phase, Aspect.HYPERCALL, "", message))
    findings += _kept(phase, Aspect.HYPERCALL, found.faults)
    findings += _told(phase, workload_lines(found.console), "")
    if reference is not None:
        aspects = (
            (Aspect.COMPLAINT, new_complaints(found, reference)),
            (Aspect.CONSOLE, line_differences(found, reference)),
            (Aspect.USER_SPACE, call_differences(found, reference.traces)),
        )
        for aspect, lines in aspects:
            findings += _kept(phase, aspect, lines)
    if findings:
        return PhaseVerdict(phase, Outcome.FAILS, f"{len(findings)} findings", tuple(findings))
    what = f"{sum(found.calls.values())} system calls, {found.refused} hypercalls refused"
    return PhaseVerdict(phase, Outcome.HOLDS, what)


def _as_reference(evidence: Evidence, boot: BootResult, reference: BootResult) -> Iterator[Finding]:
    """Processors, console and user space are those of the reference."""
    foreign = not evidence.own_workload
    ours, theirs = boot.processors, reference.processors
    if ours != theirs:
        message = f"processors that executed code: {ours}, in the boot it is compared with {theirs}"
        yield Finding(boot.phase, Aspect.WORKLOAD, "", message)
    if (varied := evidence.variation) is not None:
        aspects: tuple[tuple[Aspect, Callable[[], list[str]]], ...] = (
            (Aspect.COMPLAINT, lambda: varied.complaint_differences(boot.console)),
            (Aspect.CONSOLE, lambda: varied.console_differences(boot.console)),
            (Aspect.USER_SPACE, lambda: varied.call_differences(boot.traces)),
        )
        for aspect, found in aspects:
            yield from _kept(boot.phase, aspect, found())
        return
    aspects = (
        (Aspect.COMPLAINT, lambda: new_warnings(reference.console, boot.console)),
        (Aspect.CONSOLE, lambda: differences(reference.console, boot.console, foreign=foreign)),
        (Aspect.USER_SPACE, lambda: user_space.compare(reference.traces, boot.traces)),
    )
    for aspect, found in aspects:
        yield from _kept(boot.phase, aspect, found())


def _alone(boot: BootResult) -> Iterator[Finding]:
    """Without a reference: the kernel complains of nothing but what the workload makes it."""
    lines = [line for line in complaints(boot.console) if workload.PROGRAM not in line]
    yield from _kept(boot.phase, Aspect.COMPLAINT, lines)


def _kept(phase: Phase, aspect: Aspect, lines: list[str]) -> Iterator[Finding]:
    for line in lines[:KEPT]:
        yield Finding(phase, aspect, "", line)
    if len(lines) > KEPT:
        yield Finding(phase, aspect, "", f"and {len(lines) - KEPT} more")


def _switched(boot: BootResult) -> Iterator[Finding]:
    if not boot.became_paravirtual:
        message = _with_tail("the kernel does not switch to the ROM", boot)
        yield Finding(boot.phase, Aspect.SWITCH, boot.place, message)


def _audited(sites: Sites, boot: BootResult) -> Iterator[Finding]:
    """Whatever had to be emulated is listed as native, or belongs to a call no ROM serves."""
    records = {site.va: site for site in sites.annotated}
    trapping = [site for site in sites.native if site.trapping]
    listed = {va for site in trapping for va in (site.va, *site.others)}
    for emulated in boot.emulated:
        site = records.get(emulated.va)
        if site is not None:
            if _unserved(site.call) and not emulated.is_unprivileged:
                continue
            message = "was executed itself, the runtime has not put its call there"
            place = f"{site.function} ({emulated.va:#x})"
        elif emulated.va in listed:
            continue
        else:
            message = "was executed, and neither a record nor the list of native ones has it"
            place = f"{boot.functions.get(emulated.va, '')} ({emulated.va:#x})"
        yield Finding(boot.phase, Aspect.AUDIT, place, f"{_instruction(emulated)} {message}")


def _instruction(emulated: Emulated) -> str:
    wrong = ", silently wrong on hardware," if emulated.is_unprivileged else ""
    return f"`{emulated.code.hex(' ')}` ({emulated.name}){wrong}"


def _unserved(call: VmiCall) -> bool:
    return relocation_type(call, Flavor.PARAVIRT) is RelocationType.NONE

# SPDX-License-Identifier: MIT
"""What do static check and boots together say of a rewritten kernel?"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from vmipatch.choices import Flavor
from vmipatch.emu.audit import Finding as Emulated
from vmipatch.emu.exits import SENSITIVE
from vmipatch.rom.entries import RelocationType, relocation_type
from vmipatch.verify import user_space, workload
from vmipatch.verify.boots import BootResult, Phase
from vmipatch.verify.console import complaints, differences, new_warnings
from vmipatch.verify.coverage import Coverage, Sites
from vmipatch.verify.lockstep.check import Lockstep
from vmipatch.verify.lockstep.events import Kind
from vmipatch.verify.lockstep.world import NAMES
from vmipatch.verify.static import StaticVerdict
from vmipatch.verify.static.verdict import RECOVERED
from vmipatch.verify.translations import Translations
from vmipatch.vmi.calls import VmiCall

KEPT: Final = 20
"""Findings of one kind in one boot; more are only counted."""
RUNTIME_LINE: Final = "vmi: paravirtual"
"""What the runtime writes when it has switched."""


class Outcome(enum.Enum):
    """What became of one question."""

    HOLDS = "holds"
    FAILS = "does not hold"
    NOT_DONE = "not done"


class Statement(enum.Enum):
    """The verdict as a whole."""

    PROVEN_AND_BOOTED = "holds: proven from its bytes, and booted"
    PROVEN = "holds: proven from its bytes, not booted"
    BOOTED = "holds as far as it was booted; not proven, since no original was given"
    EXECUTED = "holds: each shape of site does what its instruction did; not proven, not booted"
    BELOW = "holds, but fewer sites were executed than required"
    FAILS = "does not hold"


class Aspect(enum.Enum):
    """What a finding is about."""

    STATIC = "static"
    TRANSLATION = "translation"
    ENDING = "end of the run"
    WORKLOAD = "workload"
    CONSOLE = "console"
    COMPLAINT = "complaint"
    USER_SPACE = "system calls"
    SWITCH = "switch"
    AUDIT = "audit"
    DIVERGENCE = "divergence"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that does not hold."""

    phase: Phase
    aspect: Aspect
    place: str
    """Function and address, where there is one."""
    message: str

    def __str__(self) -> str:
        where = f" {self.place}:" if self.place else ""
        return f"{self.phase.value}: {self.aspect.value}:{where} {self.message}"


@dataclass(frozen=True, slots=True)
class PhaseVerdict:
    """What one phase came to."""

    phase: Phase
    outcome: Outcome
    what: str
    """One line about it."""
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that was looked at."""

    kernel: str
    original: str | None
    sites: Sites
    static: StaticVerdict | None
    boots: dict[Phase, BootResult] = field(hash=False)
    coverage: Coverage | None
    required_percent: float | None
    own_workload: bool
    translations: Translations | None = None
    lockstep: Lockstep | None = None
    seconds: Mapping[Phase, float] = field(default_factory=dict, hash=False)
    """How long what is not a boot took on this host."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement, and what it stands on."""

    statement: Statement
    phases: tuple[PhaseVerdict, ...] = field(repr=False)
    evidence: Evidence = field(repr=False)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All of them, in the order of the phases."""
        return tuple(finding for phase in self.phases for finding in phase.findings)

    @property
    def holds(self) -> bool:
        """Whether nothing speaks against the kernel."""
        return self.statement is not Statement.FAILS


def judge(evidence: Evidence) -> Verdict:
    """Ask every question that the evidence allows."""
    reference = evidence.boots.get(Phase.ORIGINAL) or evidence.boots.get(Phase.NATIVE)
    phases = [_judge_static(evidence)]
    if evidence.translations is not None:
        phases.append(_judge_translations(evidence.translations))
    phases += [_judge_boot(evidence, boot, reference) for boot in evidence.boots.values()]
    if evidence.lockstep is not None:
        phases.append(judge_lockstep(evidence.lockstep, own_workload=evidence.own_workload))
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
    findings = [*_ending(boot), *_reached(evidence, boot)]
    if reference is not None and reference is not boot:
        findings += _as_reference(evidence, boot, reference)
    elif evidence.own_workload:
        findings += _alone(boot)
    if boot.phase in (Phase.AUDIT, Phase.MEASURED):
        findings += _switched(boot)
    if boot.phase is Phase.AUDIT:
        findings += _audited(evidence.sites, boot)
    processes = len(boot.traces)
    what = f"{boot.calls} system calls of {processes} processes"
    if not findings:
        return PhaseVerdict(boot.phase, Outcome.HOLDS, what)
    return PhaseVerdict(boot.phase, Outcome.FAILS, f"{len(findings)} findings", tuple(findings))


def _ending(boot: BootResult) -> Iterator[Finding]:
    """The run ends, and the guest means it to."""
    if not boot.ended_by_guest:
        yield Finding(boot.phase, Aspect.ENDING, boot.place, _with_tail(boot.how, boot))


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
    """What our own workload says of itself, if it can say anything."""
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
    calls, lines = (found.compared.get(kind, 0) for kind in (Kind.CALL, Kind.CONSOLE))
    events = sum(found.compared.values())
    what = f"{events} events the same: {calls} system calls, {lines} console lines ..."
    return PhaseVerdict(phase, Outcome.HOLDS, what)


def _as_reference(evidence: Evidence, boot: BootResult, reference: BootResult) -> Iterator[Finding]:
    """Console and user space are those of the reference."""
    foreign = not evidence.own_workload
    aspects: tuple[tuple[Aspect, Callable[[], list[str]]], ...] = (
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


def sensitive_exits(boot: BootResult) -> int:
    """How often a guest was left because of a sensitive instruction of its kernel."""
    return sum(boot.exits.get(str(kind), 0) for kind in SENSITIVE)

# SPDX-License-Identifier: MIT
"""How does a person read the verdict about a kernel on a terminal?"""

from __future__ import annotations

from typing import Final

from vmipatch.choices import Mode
from vmipatch.cli.table import table
from vmipatch.errors import escaped
from vmipatch.verify.boots import BootResult
from vmipatch.verify.certificate import left_out
from vmipatch.verify.coverage import Coverage
from vmipatch.verify.static.file_ledger import FileLedger
from vmipatch.verify.variation import Variation
from vmipatch.verify.verdict import Verdict, sensitive_exits

SHOWN: Final = 12
"""Findings and classes on the screen; the reports have all."""
NS_PER_S: Final = 1_000_000_000


def summary(verdict: Verdict) -> str:
    """The text for a person: findings, phases, coverage, exits, and the verdict as last line."""
    evidence = verdict.evidence
    findings = verdict.findings
    parts = ["\n".join(map(str, findings[:SHOWN]))] if findings else []
    if len(findings) > SHOWN:
        parts[-1] += f"\nand {len(findings) - SHOWN} findings more (--json has them)"
    if evidence.lockstep is not None and evidence.lockstep.history:
        parts.append("\n".join(evidence.lockstep.history))
    if evidence.variation is not None:
        parts.append(_variation_text(evidence.variation))
    parts.append(_phase_table(verdict))
    if evidence.static is not None and evidence.static.file is not None:
        parts.append(file_text(evidence.static.file))
    if evidence.coverage is not None:
        parts.append(_coverage_text(evidence.coverage))
    deprivileged = [boot for boot in evidence.boots.values() if boot.mode is not Mode.NATIVE]
    if deprivileged:
        parts.append(_exit_text(deprivileged))
    reasons = evidence.sites.by_reason().most_common()
    if reasons:
        rows = [(count, reason) for reason, count in reasons]
        parts.append(table(["sites", "left native because"], rows))
    if missing := left_out(verdict):
        parts.append(table(["not done", "how to have it"], missing))
    parts.append(f"{escaped(evidence.kernel)}: {verdict.statement.value}")
    return "\n\n".join(parts)


def _variation_text(variation: Variation) -> str:
    varies = variation.varies
    lines = [f"in {variation.runs} boots of the original, timer shifted, this varies:", *varies]
    if len(varies) > SHOWN:
        lines[SHOWN + 1 :] = [f"and {len(varies) - SHOWN} places more (--json has them)"]
    return "\n".join(lines) if varies else f"{variation.runs} boots of the original do the same"


def _phase_table(verdict: Verdict) -> str:
    boots = verdict.evidence.boots
    rows = []
    for phase in verdict.phases:
        boot = boots.get(phase.phase)
        virtual = f"{boot.now_ns / NS_PER_S:.3f} s" if boot else "-"
        seconds = boot.seconds if boot else verdict.evidence.seconds.get(phase.phase)
        real = "-" if seconds is None else f"{seconds:.1f} s"
        rows.append((phase.phase.value, phase.outcome.value, phase.what, virtual, real))
    return table(["phase", "outcome", "", "virtual time", "took"], rows)


def file_text(ledger: FileLedger) -> str:
    """The ledger of the bytes of a file, in brief: the certificate has all rows."""
    rows = [(count, name) for name, count in ledger.groups.items()]
    whole = (
        f"{ledger.file_len} bytes compared with a file built from the original "
        f"and {ledger.decided} decisions, {ledger.unexplained} unexplained"
    )
    return f"{table(['bytes', 'of the file'], rows)}\n{whole}"


def _coverage_text(coverage: Coverage) -> str:
    touched = sum(share.executed > 0 for share in coverage.functions)
    head = (
        f"{coverage.whole.executed} of {coverage.whole.sites} sites executed paravirtually "
        f"({coverage.percent:.1f} %), in {touched} of {len(coverage.functions)} functions"
    )
    rows = [(share.name, share.executed, share.sites) for share in coverage.classes[:SHOWN]]
    rest = coverage.classes[SHOWN:]
    if rest:
        executed, sites = sum(s.executed for s in rest), sum(s.sites for s in rest)
        rows.append((f"{len(rest)} more", executed, sites))
    return f"{table(['class', 'executed', 'sites'], rows)}\n{head}"


def _exit_text(boots: list[BootResult]) -> str:
    rows = [(boot.phase.value, sensitive_exits(boot), sum(boot.exits.values())) for boot in boots]
    return table(["exits", "for sensitive instructions", "in all"], rows)

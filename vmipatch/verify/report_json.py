# SPDX-License-Identifier: MIT
"""How does a program read a verdict? As JSON, docs/schemas/verify-2.json."""

from __future__ import annotations

import hashlib
from typing import Any

from vmipatch.verify.boots import BootResult
from vmipatch.verify.coverage import Coverage, Share
from vmipatch.verify.lockstep.check import Lockstep
from vmipatch.verify.static import StaticVerdict
from vmipatch.verify.translations import Translations
from vmipatch.verify.verdict import Verdict

SCHEMA = "vmipatch.verify/2"


def as_json(verdict: Verdict) -> dict[str, Any]:
    """Plain values without times or names of the host: the same for the same kernels."""
    evidence = verdict.evidence
    return {
        "kernel": evidence.kernel,
        "original": evidence.original,
        "holds": verdict.holds,
        "statement": verdict.statement.name.lower().replace("_", "-"),
        "phases": [
            {"phase": phase.phase.name.lower(), "outcome": phase.outcome.name.lower(),
             "what": phase.what}
            for phase in verdict.phases
        ],
        "findings": [
            {"phase": finding.phase.name.lower(), "aspect": finding.aspect.name.lower(),
             "place": finding.place, "message": finding.message}
            for finding in verdict.findings
        ],
        "static": None if evidence.static is None else _static(evidence.static),
        "translations": None
        if evidence.translations is None
        else _translations(evidence.translations),
        "boots": {phase.name.lower(): _boot(boot) for phase, boot in evidence.boots.items()},
        "lockstep": None if evidence.lockstep is None else lockstep_json(evidence.lockstep),
        "coverage": None if evidence.coverage is None else _coverage(evidence.coverage),
        "required_percent": evidence.required_percent,
        "native": [
            {"address": site.va, "class": site.kind, "function": site.function,
             "trapping": site.trapping, "reason": site.reason}
            for site in evidence.sites.native
        ],
    }  # fmt: skip


def _static(static: StaticVerdict) -> dict[str, Any]:
    return {
        "holds": static.holds,
        "counts": static.counts,
        "totals": {rule.number: count for rule, count in static.totals.items()},
        "findings": [
            {"rule": finding.rule.number, "address": finding.va, "place": finding.place,
             "message": finding.message}
            for finding in static.findings
        ],
    }  # fmt: skip


def _translations(found: Translations) -> dict[str, Any]:
    return {
        "shapes": found.shapes,
        "sites": found.sites,
        "states": found.states,
        "faults": found.faults,
        "findings": list(found.findings),
        "left_out": dict(sorted(found.left_out.items())),
    }


def _boot(boot: BootResult) -> dict[str, Any]:
    return {
        "ending": boot.ending.name.lower() if boot.ending else "emulator_failed",
        "details": boot.details,
        "place": boot.place,
        "virtual_ns": boot.now_ns,
        "blocks": boot.blocks,
        "paravirtual": boot.became_paravirtual,
        "processes": len(boot.traces),
        "system_calls": boot.calls,
        "console_lines": boot.console.count("\n"),
        "console_sha256": hashlib.sha256(boot.console.encode()).hexdigest(),
        "exits": boot.exits,
    }


def lockstep_json(found: Lockstep) -> dict[str, Any]:
    """How many events were the same, and where the first was not."""
    return {
        "compared": {kind.value: count for kind, count in found.compared.items()},
        "flags_checked": found.flags_checked,
        "endings": [
            None if end is None else end.ending.name.lower() if end.ending else "emulator_failed"
            for end in found.ends
        ],
        "divergence": None
        if found.divergence is None
        else {"channel": found.divergence.channel, "number": found.divergence.number,
              "message": found.headline, "history": list(found.history)},
    }  # fmt: skip


def _coverage(coverage: Coverage) -> dict[str, Any]:
    return {
        "percent": round(coverage.percent, 2),
        "executed": coverage.whole.executed,
        "sites": coverage.whole.sites,
        "classes": [_share(share) for share in coverage.classes],
        "functions": [_share(share) for share in coverage.functions],
    }


def _share(share: Share) -> dict[str, Any]:
    return {"name": share.name, "executed": share.executed, "sites": share.sites}

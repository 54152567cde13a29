# SPDX-License-Identifier: MIT
"""How does a program read a verdict? As JSON, docs/schemas/verify-2.json."""

from __future__ import annotations

import hashlib
from typing import Any

from vmipatch.emu.report import Ending
from vmipatch.names import base_name
from vmipatch.verify.boots import BootResult
from vmipatch.verify.coverage import Coverage, Share
from vmipatch.verify.lockstep.check import Lockstep
from vmipatch.verify.static import StaticVerdict
from vmipatch.verify.translations import Translations
from vmipatch.verify.variation import Variation
from vmipatch.verify.verdict import Verdict
from vmipatch.verify.xen.machine import XenBoot

SCHEMA = "vmipatch.verify/2"


def as_json(verdict: Verdict) -> dict[str, Any]:
    """Plain values without times or names of the host: the same for the same kernels."""
    evidence = verdict.evidence
    return {
        "kernel": base_name(evidence.kernel),
        "original": evidence.original and base_name(evidence.original),
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
        "processors": evidence.cpus,
        "races": [_race(boot) for boot in evidence.raced],
        "lockstep": None if evidence.lockstep is None else lockstep_json(evidence.lockstep),
        **xen_json(evidence.on_xen),
        "coverage": None if evidence.coverage is None else _coverage(evidence.coverage),
        "required_percent": evidence.required_percent,
        "native": [
            {"address": site.va, "class": site.kind, "function": site.function,
             "trapping": site.trapping, "reason": site.reason}
            for site in evidence.sites.native
        ],
        **variation_json(evidence.variation),
    }  # fmt: skip


def variation_json(variation: Variation | None) -> dict[str, Any]:
    """The differences of the original from itself; nothing if that was not asked for."""
    if variation is None:
        return {}
    return {"variation": {"runs": variation.runs, "varies": list(variation.varies)}}


def _static(static: StaticVerdict) -> dict[str, Any]:
    return {
        "holds": static.holds,
        "counts": static.counts,
        "file": static_file_json(static),
        "totals": {rule.number: count for rule, count in static.totals.items()},
        "findings": [
            {"rule": finding.rule.number, "address": finding.va, "place": finding.place,
             "message": finding.message}
            for finding in static.findings
        ],
    }  # fmt: skip


def static_file_json(static: StaticVerdict | None) -> dict[str, Any] | None:
    """The ledger of the bytes of a file; None if it was not built anew."""
    if static is None or static.file is None:
        return None
    return {
        "bytes": static.file.file_len,
        "rows": static.file.rows,
        "copied": sorted(static.file.copied),
        "decisions": static.file.decisions,
    }


def _translations(found: Translations) -> dict[str, Any]:
    return {
        "shapes": found.shapes,
        "sites": found.sites,
        "states": found.states,
        "faults": found.faults,
        "findings": list(found.findings),
        "left_out": dict(sorted(found.left_out.items())),
    }


def ending_json(ending: Ending | None) -> dict[str, Any]:
    """How a boot ended, whether the guest wanted it, and why if its name does not tell."""
    if ending is None:
        return {"ending": "emulator_failed", "by_guest": False, "means": ""}
    return {"ending": ending.name.lower(), "by_guest": ending.by_guest, "means": ending.means}


def _boot(boot: BootResult) -> dict[str, Any]:
    return {
        **ending_json(boot.ending),
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


def _race(boot: BootResult) -> dict[str, Any]:
    told = _boot(boot)
    kept = ("ending", "blocks", "system_calls", "console_sha256")
    return {"turn_bytes": boot.turn_len, **{name: told[name] for name in kept}}


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


def xen_json(found: XenBoot | None) -> dict[str, Any]:
    """The boot as domain 0; nothing if that was not asked for."""
    if found is None:
        return {}
    told = {
        "hypervisor_sha256": found.hypervisor_sha256,
        "ending": "failed" if found.how else "reset",
        "refused": found.refused,
        "system_calls": sum(found.calls.values()),
        "console_sha256": hashlib.sha256(found.console.encode()).hexdigest(),
    }
    return {"xen": told}


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

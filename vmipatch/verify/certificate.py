# SPDX-License-Identifier: MIT
"""What does a verification vouch for? Hashes of what went in, what was proven, observed, left out.

Holds no time, path or host: the same kernels and the same version give the same bytes.
"""

from __future__ import annotations

import hashlib
from typing import Any

from vmipatch import __version__
from vmipatch.choices import CAMPAIGN_STATES, Flavor
from vmipatch.rom import build_rom
from vmipatch.verify.boots import BootResult, Phase
from vmipatch.verify.plan import Kernel
from vmipatch.verify.report_json import lockstep_json
from vmipatch.verify.static import RULES
from vmipatch.verify.verdict import Outcome, Verdict

SCHEMA = "vmipatch.certificate/1"

LEFT_OUT = {
    Phase.STATIC: ("the proof from the bytes", "--original FILE, no --sites"),
    Phase.TRANSLATIONS: (
        "each shape of site against its instruction",
        "--sites, or neither --static nor --lockstep",
    ),
    Phase.ORIGINAL: (
        "a boot of the original to compare with",
        "--original FILE, no --quick, --static, --sites or --lockstep",
    ),
    Phase.NATIVE: ("a boot without a ROM", "no --quick, --static, --sites or --lockstep"),
    Phase.AUDIT: (
        "a paravirtual boot that sees every sensitive instruction",
        "no --static, --sites or --lockstep",
    ),
    Phase.MEASURED: ("a paravirtual boot without interception", "--full"),
    Phase.LOCKSTEP: (
        "three machines compared event by event",
        "--lockstep and --original FILE",
    ),
    Phase.TRAPPED: ("a boot of the original by trap and emulate", "--full and --original FILE"),
}
"""What each phase does, and how to have it done."""

NEVER_COVERED = (
    "code that no boot executed is proven from its bytes alone",
    "hardware, and processors, other than those of the emulator",
    "modules, and kernels that are loaded later",
    "code that the kernel makes while it runs: `vmipatch scan` lists it with its reasons",
    "more than one processor, suspend, hibernation, kexec in a paravirtual run",
)


NOT_DONE_OF_MODULES = (
    ("a run of the module", "load it in the rewritten kernel: run KERNEL --paravirt"),
)


def certificate(
    kernel: Kernel, original: Kernel | None, verdict: Verdict, *, is_module: bool = False
) -> dict[str, Any]:
    """The certificate as plain values; docs/schemas/certificate-1.json.

    A module is proven and never booted: no ROM takes part.
    """
    evidence = verdict.evidence
    static = evidence.static
    return {
        "holds": verdict.holds,
        "statement": verdict.statement.value,
        "output_sha256": kernel.file_sha256,
        "output_kernel_sha256": kernel.sha256,
        "input_sha256": original and original.file_sha256,
        "input_kernel_sha256": original and original.sha256,
        "input_references_sha256": (original and original.beside_sha256) or None,
        "rom_sha256": None
        if is_module
        else hashlib.sha256(build_rom(Flavor.PARAVIRT).data).hexdigest(),
        "proven": {
            "outcome": _outcome(verdict, Phase.STATIC),
            "rules": [rule.number for rule in RULES] if static else [],
            "broken": {rule.number: n for rule, n in static.totals.items()} if static else {},
            "counts": static.counts if static else {},
        },
        "observed": {
            phase.name.lower(): _observed(boot, _outcome(verdict, phase))
            for phase, boot in evidence.boots.items()
        },
        "translations": None
        if evidence.translations is None
        else {
            "outcome": _outcome(verdict, Phase.TRANSLATIONS),
            "shapes": evidence.translations.shapes,
            "sites": evidence.translations.sites,
            "states": evidence.translations.states,
            "faults": evidence.translations.faults,
            "left_out": dict(sorted(evidence.translations.left_out.items())),
        },
        "lockstep": None
        if evidence.lockstep is None
        else {"outcome": _outcome(verdict, Phase.LOCKSTEP), **lockstep_json(evidence.lockstep)},
        "coverage": None
        if evidence.coverage is None
        else {"executed": evidence.coverage.whole.executed, "sites": evidence.coverage.whole.sites},
        "native": dict(sorted(evidence.sites.by_reason().items())),
        "not_done": [
            {"what": what, "how": how}
            for what, how in (NOT_DONE_OF_MODULES if is_module else left_out(verdict))
        ],
        "never_covered": list(NEVER_COVERED),
        "tool": {"name": "vmipatch", "version": __version__},
    }


def _outcome(verdict: Verdict, phase: Phase) -> str:
    found = next((p for p in verdict.phases if p.phase is phase), None)
    return (found.outcome if found else Outcome.NOT_DONE).value


def _observed(boot: BootResult, outcome: str) -> dict[str, Any]:
    return {
        "outcome": outcome,
        "ending": boot.ending.name.lower() if boot.ending else "emulator_failed",
        "system_calls": boot.calls,
        "processes": len(boot.traces),
        "console_sha256": hashlib.sha256(boot.console.encode()).hexdigest(),
    }


def left_out(verdict: Verdict) -> list[tuple[str, str]]:
    """What was not done, and how to have it done."""
    missing = [
        (what, how)
        for phase, (what, how) in LEFT_OUT.items()
        if _outcome(verdict, phase) == Outcome.NOT_DONE.value
    ]
    translations = verdict.evidence.translations
    if translations is not None and translations.states < CAMPAIGN_STATES:
        what = f"each shape of site in {CAMPAIGN_STATES} states, not {translations.states}"
        missing.append((what, "--sites"))
    return missing

# SPDX-License-Identifier: MIT
"""What does a verification vouch for? Hashes of what went in, what was proven, observed, left out.

Holds no time, path or host: the same kernels and the same version give the same bytes.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

from vmipatch.choices import CAMPAIGN_STATES, Flavor
from vmipatch.rom import build_rom
from vmipatch.verify.boots import BootResult, Phase
from vmipatch.verify.made_by import tool
from vmipatch.verify.plan import Kernel
from vmipatch.verify.report_json import (
    ending_json,
    lockstep_json,
    static_file_json,
    variation_json,
    xen_json,
)
from vmipatch.verify.static import RULES, StaticVerdict
from vmipatch.verify.static.verdict import NAMED_KEPT, NOT_PACKED_AGAIN, OTHER_START
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
    Phase.RACED: (
        "boots of several processors in turns of other lengths",
        "--cpus N --races N, no --static, --sites or --lockstep",
    ),
    Phase.LOCKSTEP: (
        "three machines compared event by event",
        "--lockstep and --original FILE",
    ),
    Phase.TRAPPED: ("a boot of the original by trap and emulate", "--full and --original FILE"),
    Phase.XEN: (
        "a boot on a hypervisor of others, of a kernel with PAE",
        "--xen FILE, no --initrd, --quick, --static, --sites or --lockstep",
    ),
}
"""The work of each phase, and how to have it done."""

NEVER_COVERED = (
    "code that no boot executed is proven from its bytes alone",
    "hardware, and processors, other than those of the emulator",
    "modules, and kernels that are loaded later",
    "code that the kernel makes while it runs: `vmipatch scan` lists it with its reasons",
    "suspend, hibernation, kexec in a paravirtual run",
)
ONE_PROCESSOR = "more than one processor"
TAKING_TURNS = (
    "races of processors within one block of code, and stores that another processor sees late: "
    "processors of the emulator take turns"
)
"""Not shown by boots with one processor, and with several."""


UNPROVEN_BOOT_CODE: Final = (
    "the boot code, the headers and the packing of the bzImage",
    "--original FILE and, as `rewrite` had it, --debug FILE",
)
OF_BZIMAGES: Final = [
    ("a run of the boot code: boots begin with the kernel in the bzImage", "boot it on a PC"),
]
PACKED_ELSEWHERE: Final = (
    "the packed stream byte by byte: compressors of this machine do not give the original's",
    "verify where it was packed, or with the same releases of compressors",
)
UNREAD: Final = (
    " that `rewrite --keep` named: they are the original's, and no instruction in them was read",
    "rewrite without --keep, or see that they run natively alone",
)
NEVER_SEEN_TO_START: Final = (
    "whether every boot reaches the function before which the runtime runs, not start_kernel",
    "a paravirtual boot: no --static, --sites or --lockstep",
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
            "file": static_file_json(static),
        },
        "signatures": signatures(static),
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
        **_on_xen(verdict),
        "coverage": None
        if evidence.coverage is None
        else {"executed": evidence.coverage.whole.executed, "sites": evidence.coverage.whole.sites},
        **variation_json(evidence.variation),
        "native": dict(sorted(evidence.sites.by_reason().items())),
        "not_done": [
            {"what": what, "how": how}
            for what, how in (NOT_DONE_OF_MODULES if is_module else left_out(verdict))
        ],
        "processors": evidence.cpus,
        "never_covered": [*NEVER_COVERED, TAKING_TURNS if evidence.used_several else ONE_PROCESSOR],
        "tool": tool(),
    }


def signatures(static: StaticVerdict | None) -> list[dict[str, Any]]:
    """The signatures that were put on an output after it was rewritten."""
    return [
        {"kind": each.kind, "signer": each.signer, "digest": each.digest, "length": each.length,
         "checked": each.is_checked, "key": each.key.value}
        for each in (static.signatures if static else ())
    ]  # fmt: skip


def _outcome(verdict: Verdict, phase: Phase) -> str:
    found = next((p for p in verdict.phases if p.phase is phase), None)
    return (found.outcome if found else Outcome.NOT_DONE).value


def _observed(boot: BootResult, outcome: str) -> dict[str, Any]:
    return {
        "outcome": outcome,
        **ending_json(boot.ending),
        "system_calls": boot.calls,
        "processes": len(boot.traces),
        "console_sha256": hashlib.sha256(boot.console.encode()).hexdigest(),
    }


def _on_xen(verdict: Verdict) -> dict[str, Any]:
    """The boot as domain 0; nothing if that was not asked for."""
    told = xen_json(verdict.evidence.on_xen)
    return {"xen": {"outcome": _outcome(verdict, Phase.XEN), **told["xen"]}} if told else {}


def left_out(verdict: Verdict) -> list[tuple[str, str]]:
    """The phases that were not done, and how to have them done."""
    missing = [
        (what, how)
        for phase, (what, how) in LEFT_OUT.items()
        if _outcome(verdict, phase) == Outcome.NOT_DONE.value
        and (phase is not Phase.RACED or verdict.evidence.cpus > 1)
    ]
    evidence = verdict.evidence
    if evidence.is_packed:
        missing += OF_BZIMAGES if evidence.static else [UNPROVEN_BOOT_CODE, *OF_BZIMAGES]
    if evidence.static is not None:
        if evidence.static.counts.get(NOT_PACKED_AGAIN):
            missing.append(PACKED_ELSEWHERE)
        if kept_len := evidence.static.counts.get(NAMED_KEPT):
            missing.append((f"{kept_len} bytes of code{UNREAD[0]}", UNREAD[1]))
        is_booted = _outcome(verdict, Phase.AUDIT) != Outcome.NOT_DONE.value
        if evidence.static.counts.get(OTHER_START) and not is_booted:
            missing.append(NEVER_SEEN_TO_START)
        missing += [
            (f"a check of the {each.kind} by {each.signer}", "verify it with the signer's key")
            for each in evidence.static.signatures
            if not each.is_checked
        ]
    translations = evidence.translations
    if translations is not None and translations.states < CAMPAIGN_STATES:
        what = f"each shape of site in {CAMPAIGN_STATES} states, not {translations.states}"
        missing.append((what, "--sites"))
    return missing

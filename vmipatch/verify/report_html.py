# SPDX-License-Identifier: MIT
"""How does a person read a verdict? As one HTML page that needs nothing but itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

from vmipatch.names import base_name
from vmipatch.verify.boots import BootResult, Phase
from vmipatch.verify.coverage import Coverage, Share
from vmipatch.verify.html import BAR_LEN, bar, code, page, printable, section, table
from vmipatch.verify.html_certificate import not_done, provenance
from vmipatch.verify.lockstep.check import Lockstep
from vmipatch.verify.variation import Variation
from vmipatch.verify.verdict import Outcome, Statement, Verdict, sensitive_exits

SHOWN_FINDINGS: Final = 500

_NS_PER_S: Final = 1_000_000_000
_COLUMNS: Final = (Phase.TRAPPED, Phase.AUDIT, Phase.MEASURED)
_GOOD: Final = (Statement.PROVEN, Statement.PROVEN_AND_BOOTED, Statement.BOOTED)


def html_report(verdict: Verdict, certificate: Mapping[str, Any]) -> str:
    """The page; the same bytes for the same kernels. `certificate` is that of the verdict."""
    evidence = verdict.evidence
    sections = [
        _head(verdict),
        section("Phases", _phases(verdict)),
        section("Findings", _findings(verdict)) if verdict.findings else "",
        section("Not done", not_done(certificate)),
        section("Variation", _variation(evidence.variation)) if evidence.variation else "",
        section("Lockstep", _lockstep(evidence.lockstep)) if evidence.lockstep else "",
        section("Sites executed", _coverage(evidence.coverage)) if evidence.coverage else "",
        section("Exits from the guest", _exits(evidence.boots)) if evidence.boots else "",
        section("Sites left native", _native(verdict)),
        section("Consoles", _consoles(evidence.boots)) if evidence.boots else "",
        section("Files and versions", provenance(certificate)),
    ]
    return page(base_name(evidence.kernel), sections)


def _head(verdict: Verdict) -> str:
    evidence = verdict.evidence
    kind = "good" if verdict.statement in _GOOD else "bad"
    original = evidence.original and base_name(evidence.original)
    origin = f"made from {code(original)}" if original else "original not given"
    facts = [
        ("sites annotated", f"{len(evidence.sites.annotated):,}"),
        ("left native", f"{len(evidence.sites.native):,}"),
        ("findings", f"{len(verdict.findings):,}"),
    ]
    if evidence.coverage:
        facts.insert(1, ("executed", f"{evidence.coverage.percent:.1f} %"))
    cells = "".join(f"<div><b>{value}</b><span>{name}</span></div>" for name, value in facts)
    return (
        f'<header class="{kind}">\n<h1>{code(base_name(evidence.kernel))}</h1>\n'
        f'<p class="verdict">{escape(verdict.statement.value)}</p>\n<p>{origin}</p>\n'
        f'<div class="facts">{cells}</div>\n</header>\n'
    )


def _phases(verdict: Verdict) -> str:
    boots = verdict.evidence.boots
    longest_ns = max((boot.now_ns for boot in boots.values()), default=0)
    rows = []
    for phase in verdict.phases:
        boot = boots.get(phase.phase)
        spent = f"{boot.now_ns / _NS_PER_S:.3f} s" if boot else ""
        share = bar([(boot.now_ns / longest_ns, "used")]) if boot and longest_ns else ""
        mark = {Outcome.HOLDS: "good", Outcome.FAILS: "bad", Outcome.NOT_DONE: "none"}
        rows.append(
            [
                escape(phase.phase.value),
                f'<span class="mark {mark[phase.outcome]}">{escape(phase.outcome.value)}</span>',
                escape(printable(phase.what)) + _ending(boot),
                spent,
                share,
            ]
        )
    header = ["phase", "outcome", "what was compared", "virtual time", ""]
    return table("What each step says", header, rows, right={3})


def _ending(boot: BootResult | None) -> str:
    """How a boot ended, and why that is an orderly end where it does not sound like one."""
    if boot is None or boot.ending is None:
        return ""
    means = f": {boot.ending.means}" if boot.ending.means else ""
    return f'<br><span class="quiet">{escape(boot.ending.value + means)}</span>'


def _findings(verdict: Verdict) -> str:
    shown = verdict.findings[:SHOWN_FINDINGS]
    rows = [
        [escape(f.phase.value), escape(f.aspect.value), code(f.place), escape(printable(f.message))]
        for f in shown
    ]
    rest = len(verdict.findings) - len(shown)
    more = f"<p>and {rest} more; --json has them all</p>\n" if rest else ""
    return table("What does not hold", ["phase", "about", "place", "what"], rows) + more


def _variation(found: Variation) -> str:
    """The differences between several boots of the original."""
    rows = "".join(f"<li>{escape(printable(what))}</li>\n" for what in found.varies)
    intro = f"<p>{found.runs} boots of the original with different phases of its timer</p>\n"
    return f"{intro}<ul>\n{rows or '<li>nothing varies</li>'}</ul>\n"


def _lockstep(found: Lockstep) -> str:
    """Events that the three machines agreed on, and what they said before they did not."""
    rows = [[escape(kind.value), f"{count:,}"] for kind, count in found.compared.items()]
    if found.flags_checked:
        rows.append(["virtual interrupt flag against its model", f"{found.flags_checked:,}"])
    told = printable("\n".join(found.history))
    history = f"<pre>{escape(told)}</pre>\n" if found.history else ""
    header = ["compared and the same", "events"]
    return table("Events on which three machines agreed", header, rows, right={1}) + history


def _coverage(coverage: Coverage) -> str:
    touched = [share for share in coverage.functions if share.executed]
    missed = [share for share in coverage.functions if not share.executed]
    intro = (
        f"<p>{coverage.whole.executed:,} of {coverage.whole.sites:,} annotated sites were executed "
        f"after the switch to the ROM, in {len(touched):,} of {len(coverage.functions):,} "
        "functions. What was not executed rests on the static check alone.</p>\n"
    )
    rows = [_share_row(share) for share in (coverage.whole, *coverage.classes)]
    header = ["class", "executed", "sites", ""]
    classes = table("Sites executed, by class", header, rows, right={1, 2})
    return (
        intro
        + classes
        + _functions(f"{len(touched)} functions with an executed site", touched)
        + _functions(f"{len(missed)} functions without", missed)
    )


def _share_row(share: Share) -> list[str]:
    drawn = bar([(1.0, "track"), (share.executed / share.sites, "used")])
    return [code(share.name), f"{share.executed:,}", f"{share.sites:,}", drawn]


def _functions(title: str, shares: Sequence[Share]) -> str:
    items = "".join(f"<li>{code(s.name)} {s.executed} of {s.sites}</li>\n" for s in shares)
    return f"<details><summary>{title}</summary>\n<ul>\n{items}</ul>\n</details>\n"


def _exits(boots: dict[Phase, BootResult]) -> str:
    """Counts by kind, one column a boot, bars on a logarithmic scale."""
    columns = [boots[phase] for phase in _COLUMNS if phase in boots]
    if not columns:
        columns = list(boots.values())
    kinds = {kind for boot in columns for kind in boot.exits}
    order = sorted(kinds, key=lambda kind: (-max(b.exits.get(kind, 0) for b in columns), kind))
    most = max((count for boot in columns for count in boot.exits.values()), default=1)
    rows = [
        [escape(kind), *(cell for b in columns for cell in _count(b.exits.get(kind, 0), most))]
        for kind in order
    ]
    sums = [
        ["sensitive instructions, in all"]
        + [cell for b in columns for cell in _count(sensitive_exits(b), most)]
    ]
    header = ["kind"] + [text for b in columns for text in (b.phase.value, "")]
    right = {1 + 2 * i for i in range(len(columns))}
    note = "<p>Bars are logarithmic: a quarter of the length is about a power of ten or two.</p>\n"
    return note + table("Exits, by kind and boot", header, sums + rows, right=right)


def _count(count: int, most: int) -> tuple[str, str]:
    share = math.log10(count + 1) / math.log10(most + 1)
    return (f"{count:,}", bar([(share, "used")], BAR_LEN // 2) if count else "")


def _native(verdict: Verdict) -> str:
    sites = verdict.evidence.sites
    if not sites.native:
        return "<p>none</p>\n"
    reasons = sites.by_reason().most_common()
    most = reasons[0][1]
    rows = [[escape(reason), f"{n:,}", bar([(n / most, "used")])] for reason, n in reasons]
    items = "".join(
        f"<li>{code(f'{s.va:#x}')} {code(s.function)} {escape(s.kind)}: {escape(s.reason)}"
        f"{'' if s.trapping else ', would not fault'}</li>\n"
        for s in sites.native
    )
    counts = table("Why sites stay native", ["reason", "sites", ""], rows, right={1})
    return f"{counts}<details><summary>all of them</summary>\n<ul>\n{items}</ul>\n</details>\n"


def _consoles(boots: dict[Phase, BootResult]) -> str:
    return "".join(
        f"<details><summary>{escape(phase.value)}, {boot.console.count(chr(10))} lines</summary>\n"
        f"<pre>{escape(printable(boot.console))}</pre>\n</details>\n"
        for phase, boot in boots.items()
    )

# SPDX-License-Identifier: MIT
"""How do code-scanning services read the static check's findings? As SARIF 2.1.0.

Static Analysis Results Interchange Format (SARIF) Version 2.1.0, OASIS, 27 March 2020.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from vmipatch import __version__
from vmipatch.verify.static import RULES, Rule, StaticFinding, StaticVerdict

VERSION = "2.1.0"
HELP_URI = "urn:vmipatch:rule:{}"
"""A rule's name; `vmipatch explain` has its text, as the report itself."""
FINGERPRINT = "vmipatchRulePlace/v1"
"""A service that keeps findings takes two of one fingerprint for the same."""
SCHEMA_URI = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)


def sarif(files: Sequence[tuple[str, StaticVerdict | None]]) -> bytes:
    """One run with every rule and every kept finding about `files`: names and static checks.

    Without a static check of each the run is there and says that it did not take place.
    """
    totals: Counter[str] = Counter()
    for _, static in files:
        totals.update({r.number: n for r, n in static.totals.items()} if static else {})
    run: dict[str, Any] = {
        "tool": {
            "driver": {
                "name": "vmipatch",
                "version": __version__,
                "rules": [_rule(rule) for rule in RULES],
            }
        },
        "invocations": [{"executionSuccessful": all(static for _, static in files)}],
        "columnKind": "unicodeCodePoints",
        "results": [
            result for name, static in files if static for result in _results(name, static.findings)
        ],
        "properties": {"totals": dict(sorted(totals.items()))},
    }
    document = {"$schema": SCHEMA_URI, "version": VERSION, "runs": [run]}
    return (json.dumps(document, indent=1) + "\n").encode()


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.number,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.demand},
        "help": {
            "text": f"Example: {rule.example}\n\nWhat to do: {rule.remedy}",
            "markdown": f"**Example:** {rule.example}\n\n**What to do:** {rule.remedy}\n\n"
            f"`vmipatch explain {rule.number}`",
        },
        "helpUri": HELP_URI.format(rule.number),
        "defaultConfiguration": {"level": "error"},
    }


def _results(kernel: str, findings: Sequence[StaticFinding]) -> Iterator[dict[str, Any]]:
    """One for each finding, which its fingerprint tells from the others of this file."""
    seen: Counter[str] = Counter()
    for finding in findings:
        alike = _alike(kernel, finding)
        text = f"{alike}\n{seen[alike]}"
        seen[alike] += 1
        digest = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
        yield {**_result(kernel, finding), "partialFingerprints": {FINGERPRINT: digest}}


def _alike(kernel: str, finding: StaticFinding) -> str:
    """The parts of a finding that stay when code is laid out anew: rule, file, function, words."""
    function = re.sub(r"\+0x[0-9a-f]+| \(0x[0-9a-f]+\)", "", finding.place)
    words = re.sub(r"0x[0-9a-f]+|\d+", "N", finding.message)
    return "\n".join((finding.rule.number, kernel, function, words))


def _result(kernel: str, finding: StaticFinding) -> dict[str, Any]:
    place: dict[str, Any] = {
        "physicalLocation": {"artifactLocation": {"uri": quote(kernel, errors="surrogateescape")}},
        "logicalLocations": [{"fullyQualifiedName": finding.place or "file"}],
    }
    if finding.va:
        place["physicalLocation"]["address"] = {"absoluteAddress": finding.va}
    return {
        "ruleId": finding.rule.number,
        "ruleIndex": RULES.index(finding.rule),
        "level": "error",
        "message": {"text": finding.message},
        "locations": [place],
    }

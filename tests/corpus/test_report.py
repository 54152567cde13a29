# SPDX-License-Identifier: MIT
"""Does the page on support say what is known, and of what?"""

from __future__ import annotations

import re

import pytest

from tests.corpus import report, state
from tests.corpus.command import without_places
from tests.corpus.judge import Colour, verdict
from tests.corpus.samples import record, rewritten
from tests.corpus.state import CorpusStep, Record, Result, StepOutcome
from tests.corpus.table import ROWS, InputMode
from tests.corpus.tried import KINDS, TriedKind

PRODUCT = "12" * 32
ONCE = "Tried once; a synthetic sample of each kind is in the tests"


def line(known: Record, expected: str = "") -> report.Line:
    return report.Line(known, verdict(known, expected))


def rows(page: str, section: str) -> list[list[str]]:
    """The cells of the table in a section, without its head."""
    text = page.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    table = [row.strip("|").split(" | ") for row in text.splitlines() if row.startswith("|")]
    return [[cell.strip() for cell in row] for row in table[2:]]


def test_row_names_kernel_counts_and_what_holds() -> None:
    page = report.page(PRODUCT, [line(record(name="tiny"))], [], None)
    kernel, version, compiler, kind, given, *counts, lost, steps, colour = rows(
        page, "Repeatable from public archives"
    )[0]
    assert (kernel, version, compiler, kind, given) == ("tiny", "6.1.0", "?", "UP", "twin")
    assert counts == ["112", "100", "5"]
    assert (lost, steps, colour) == ("nothing", "all", "green")
    assert f"`{PRODUCT[:16]}`" in page


def test_kernels_from_archives_stand_apart_from_those_brought_once() -> None:
    page = report.page(PRODUCT, [line(record(name="one"))], [line(record(name="given/two"))], None)
    assert [row[0] for row in rows(page, "Repeatable from public archives")] == ["one"]
    once = rows(page, ONCE)
    brought = [row[0] for row in once if row[0].startswith("given/")]
    assert brought == ["given/two"]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.what)
def test_kind_that_was_met_once_has_a_sample_in_the_tests(kind: TriedKind) -> None:
    file, _, function = kind.sample.partition("::")
    assert re.search(rf"^def {function}\(", (state.ROOT / file).read_text(), re.M)
    shown = rows(report.page(PRODUCT, [], [], None), ONCE)
    assert [kind.what, kind.seen, f"`{kind.sample}`"] in shown


def test_refusal_and_fault_are_told_in_full() -> None:
    refused = record(
        {CorpusStep.REWRITE: Result(StepOutcome.REFUSED, "needs KALLSYMS | or a twin")}, name="a"
    )
    broken = record({CorpusStep.RESTORE: Result(StepOutcome.FAILS, "other bytes")}, name="b")
    undone = record(name="c", without=(CorpusStep.VERIFY,))
    lines = [line(refused, "KALLSYMS"), line(broken), line(undone)]
    page = report.page(PRODUCT, lines, [], None)
    assert rows(page, "Refused, and why") == [["a", "twin", "needs KALLSYMS \\| or a twin"]]
    assert rows(page, "Does not hold") == [["b", "twin", "restore: other bytes"]]
    assert rows(page, "Not done yet") == [["c", "twin", "not done: verify"]]
    shown = rows(page, "Repeatable from public archives")
    assert [row[-2] for row in shown] == ["all but rewrite", "all but restore", "all but verify"]


def test_what_is_lost_and_left_native_is_told() -> None:
    less = record(rewritten(lost=["signature"], native={"why": 2}), name="a")
    page = report.page(PRODUCT, [line(less), line(record(name="b"))], [], 1.25)
    assert rows(page, "Repeatable from public archives")[0][8] == "signature"
    reasons = rows(page, "Left native, by reason")
    assert ["why", "1", "2", "2"] in reasons
    assert len(reasons) == 2
    assert "takes 1.25 times the CPU time" in page


def test_summary_has_a_line_each() -> None:
    broken = record({CorpusStep.SCAN: Result(StepOutcome.FAILS, "no")}, InputMode.ALONE, "b")
    texts = list(report.summary([line(record(name="a")), line(broken)]))
    assert texts == ["green    a twin", "red      b alone: scan: no"]
    assert line(broken).verdict.colour is Colour.RED


def test_messages_name_files_without_directories() -> None:
    said = "/a/b.c/vmlinuz: .text+0x12 (do_exit+0x8): bad (see /proc/x, 1/2)"
    assert without_places(said) == "vmlinuz: .text+0x12 (do_exit+0x8): bad (see x, 1/2)"


def test_page_in_the_tree_has_every_row() -> None:
    shown = rows(report.PAGE.read_text(), "Repeatable from public archives")
    assert {row.name for row in ROWS} == {row[0] for row in shown}

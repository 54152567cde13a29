# SPDX-License-Identifier: MIT
"""Is the cost the sum of executions times added instructions? With counts made up here."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.counting import CountedRange, Counts, with_gaps
from benchmarks.native_cost import (
    FUNCTION_PADDING,
    CostOfPlace,
    CostShare,
    added_when_run,
    native_cost,
)
from benchmarks.sample import RunResults
from vmipatch.choices import Padding
from vmipatch.isa.classify import classify
from vmipatch.rewrite.body import body_of
from vmipatch.scan.site import Disposition, Fusion, Reason, Site

CLI, IRET, STI = b"\xfa", b"\xcf", b"\xfb"
INVLPG = bytes.fromhex("0f0138")
STI_SYSEXIT = bytes.fromhex("fb0f35")


def site(code: bytes, *first: bytes) -> Site:
    """A site to be rewritten that consists of the instructions `first`, or of one."""
    forms = tuple(form for form in map(classify, first or (code,)) if form is not None)
    fusion = Fusion.SHADOW if first else Fusion.NONE
    return Site(0x1000, code, 1, forms, fusion, None, Disposition.REWRITTEN, Reason.CALL)


def grown(va: int, added: int, what: str, function: str = "f") -> CostOfPlace:
    return CostOfPlace(va, added, what, function)


def test_cost_is_the_sum_of_executions_times_added_instructions() -> None:
    growths = [grown(0x10, 1, "cli"), grown(0x20, 2, "in al, dx"), grown(0x30, 1, "cli")]
    cost = native_cost(growths, {0x10: 5, 0x20: 100, 0x30: 7}, 1000)
    assert cost.forms == (CostShare("in al, dx", 100, 200), CostShare("cli", 12, 12))
    assert cost.added == 212
    assert cost.per_cent == pytest.approx(21.2)


def test_shares_by_form_and_by_function_are_the_same_sum() -> None:
    growths = [grown(0x10, 1, "cli", "f"), grown(0x20, 1, "cli", "g"), grown(0x30, 1, "sti", "g")]
    cost = native_cost(growths, {0x10: 1, 0x20: 2, 0x30: 4}, 100)
    assert cost.forms == (CostShare("sti", 4, 4), CostShare("cli", 3, 3))
    assert cost.functions == (CostShare("g", 6, 6), CostShare("f", 1, 1))


def test_padding_that_loses_a_nop_is_credited() -> None:
    growths = [grown(0x10, 1, "cli"), grown(0x20, -1, FUNCTION_PADDING)]
    assert native_cost(growths, {0x10: 5, 0x20: 2}, 100).added == 3


def test_sites_without_added_instructions_have_no_share() -> None:
    growths = [grown(0x10, 0, "cli"), grown(0x20, 1, "sti")]
    assert native_cost(growths, {0x10: 5, 0x20: 0}, 100).forms == ()


def test_site_that_was_not_watched_is_an_error_and_not_a_zero() -> None:
    with pytest.raises(KeyError):
        native_cost([grown(0x10, 1, "cli")], {}, 100)


@pytest.mark.parametrize(
    ("code", "parts", "padding", "added"),
    [
        pytest.param(CLI, (), Padding.PREFIX, 0, id="a prefix is not an instruction"),
        pytest.param(CLI, (), Padding.NOP, 1, id="a nop is one"),
        pytest.param(INVLPG, (), Padding.PREFIX, 1, id="a memory operand takes no prefix"),
        pytest.param(IRET, (), Padding.NOP, 0, id="a nop after iret is never reached"),
        pytest.param(STI_SYSEXIT, (STI, b"\x0f\x35"), Padding.NOP, 1, id="one in front is"),
    ],
)
def test_body_adds_what_it_executes(
    code: bytes, parts: tuple[bytes, ...], padding: Padding, added: int
) -> None:
    one = site(code, *parts)
    assert added_when_run(one, body_of(one, padding)) == added


def test_repeated_string_instructions_do_not_dilute_the_cost() -> None:
    counts = Counts(1000, 400, (CountedRange(0, 16), CountedRange(16, 32)), (500, 20))
    assert counts.instructions == 600
    assert counts.watched_instructions == 120
    assert counts.at() == {0: 500, 16: 20}


@given(st.sets(st.integers(0x100, 0x1FF)))
def test_ranges_and_gaps_together_are_the_whole_span_once(points: set[int]) -> None:
    watched = [CountedRange(va, va + 1) for va in points]
    ranges = list(with_gaps(watched, CountedRange(0x100, 0x200)))
    covered = [va for entry in ranges for va in range(entry.start_va, entry.end_va)]
    assert covered == list(range(0x100, 0x200))
    assert set(watched) <= set(ranges)


def test_sample_pairs_runs_and_keeps_the_outlier_out_of_the_median() -> None:
    ours, yardstick = RunResults.of([2.0, 4.0, 30.0]), RunResults.of([1.0, 1.0, 3.0])
    assert ours.median == 4.0
    assert ours.spread == (2.0, 30.0)
    assert ours.ratio_to(yardstick) == RunResults.of([2.0, 4.0, 10.0])
    assert ours.to_text(1) == "4.0 (2.0 .. 30.0)"

# SPDX-License-Identifier: MIT
"""Does the layout keep its promises for any mixture of growth and padding?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vmipatch.rewrite.layout import Change, FillerRun, NoRoom, fit

Items = Sequence[Change | FillerRun]
START_VA = 0xC1000000
ALIGNMENTS = (1, 1, 1, 16, 32, 64, 256)


@st.composite
def regions(draw: st.DrawFn, alignments: Sequence[int] = ALIGNMENTS) -> list[Change | FillerRun]:
    """Sites, widened branches and paddings in address order, with code between them."""
    items: list[Change | FillerRun] = []
    va = START_VA
    for _ in range(draw(st.integers(1, 20))):
        va += draw(st.integers(0, 40))
        if draw(st.booleans()):
            old_len = draw(st.integers(1, 4))
            items.append(Change(va, old_len, draw(st.sampled_from((5, 6)))))
        else:
            old_len = draw(st.integers(1, 80))
            keep = draw(st.integers(0, 1))
            items.append(FillerRun(va, old_len, draw(st.sampled_from(alignments)), keep))
        va += old_len
    return items


limits = st.integers(-200, 400)


def drifts(items: Items, changes: Sequence[Change]) -> list[int]:
    """The drift after each item."""
    length_at = {change.va: change.new_len for change in changes}
    drift, result = 0, []
    for item in items:
        drift += length_at.get(item.va, item.old_len) - item.old_len
        result.append(drift)
    return result


def fitting(items: Items, limit: int) -> list[Change]:
    """The layout, or no example."""
    try:
        return fit(items, limit)
    except NoRoom:
        assume(False)
        raise


@given(regions(), limits)
def test_region_ends_no_later_than_allowed(items: Items, limit: int) -> None:
    assert drifts(items, fitting(items, limit))[-1] <= limit


@given(regions(), limits)
def test_what_follows_padding_keeps_its_alignment(items: Items, limit: int) -> None:
    following = drifts(items, fitting(items, limit))
    for item, drift in zip(items, following, strict=True):
        assert isinstance(item, Change) or drift % item.align == 0


@given(regions(), limits)
def test_barriers_are_kept(items: Items, limit: int) -> None:
    length_at = {change.va: change.new_len for change in fitting(items, limit)}
    for item in items:
        if isinstance(item, FillerRun):
            assert length_at.get(item.va, item.old_len) >= item.keep


@given(regions(), limits)
def test_every_site_gets_the_length_it_asks_for(items: Items, limit: int) -> None:
    changes = fitting(items, limit)
    assert [c for c in changes if c in items] == [i for i in items if isinstance(i, Change)]
    assert all(a.va + a.old_len <= b.va for a, b in pairwise(changes))
    assert all(change.old_len != change.new_len for change in changes)


@given(regions())
def test_padding_that_suffices_puts_everything_back(items: Items) -> None:
    """With no need to save, the drift after each sufficient padding is 0."""
    following = drifts(items, fit(items, 10_000))
    before = [0, *following[:-1]]
    for item, drift, then in zip(items, before, following, strict=True):
        if isinstance(item, FillerRun) and drift <= item.spare:
            assert then == 0


@given(regions((1,)), limits)
def test_missing_bytes_are_exact(items: Items, limit: int) -> None:
    assert_missing_is_exact(items, limit)


def test_missing_bytes_are_exact_with_alignment() -> None:
    """Growth of 5 in front of a 16-aligned function: nothing less than 16 will do."""
    assert_missing_is_exact([Change(START_VA, 1, 6), FillerRun(START_VA + 8, 1, 16, 1)], 3)


def assert_missing_is_exact(items: Items, limit: int) -> None:
    """As many bytes more as NoRoom says suffice, one less does not."""
    try:
        fit(items, limit)
    except NoRoom as error:
        assert error.missing > 0
        fit(items, limit + error.missing)
        with pytest.raises(NoRoom):
            fit(items, limit + error.missing - 1)


@given(regions(), limits)
def test_whole_pages_are_enough_in_the_end(items: Items, limit: int) -> None:
    """How the planner uses NoRoom: page by page until it fits."""
    for _ in range(3):
        try:
            fit(items, limit)
            return
        except NoRoom as error:
            limit += -(-error.missing // 4096) * 4096
    raise AssertionError("the layout never fits")


def test_nothing_to_do_changes_nothing() -> None:
    assert fit([FillerRun(START_VA, 14)], 0) == []
    assert fit([], 0) == []


def test_early_padding_is_spent_on_late_growth() -> None:
    growth = [Change(START_VA + 100, 1, 5), Change(START_VA + 110, 1, 5)]
    items: Items = [FillerRun(START_VA, 64), *growth]
    changes = fit(items, 0)
    assert drifts(items, changes) == [-16, -12, -8]

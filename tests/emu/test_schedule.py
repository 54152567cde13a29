# SPDX-License-Identifier: MIT
"""Does each processor that can run get its turn, and none that cannot?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmipatch.emu.schedule import (
    DEFAULT_TURN_LEN,
    MIN_TURN_LEN,
    Turn,
    next_processor,
    other_turn_lens,
)


def test_processors_take_turns_in_the_order_of_their_numbers() -> None:
    able = [True, True, False, True]
    order = [0]
    for _ in range(6):
        number = next_processor(able, order[-1])
        assert number is not None
        order.append(number)
    assert order == [0, 1, 3, 0, 1, 3, 0]


def test_the_only_one_that_can_run_goes_on() -> None:
    assert next_processor([False, True], 1) == 1
    assert next_processor([True], 0) == 0


def test_no_one_runs_while_all_wait() -> None:
    assert next_processor([False] * 4, 2) is None


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.integers(0, 7))
def test_every_processor_that_can_run_runs(able: list[bool], start: int) -> None:
    """As many steps as there are processors reach each that can run, exactly once."""
    current, seen = start % len(able), []
    for _ in range(sum(able)):
        following = next_processor(able, current)
        assert following is not None
        current = following
        seen.append(current)
    assert sorted(seen) == [number for number, can in enumerate(able) if can]


def test_a_turn_is_over_when_its_bytes_are_used_up() -> None:
    turn = Turn(1000)
    turn.begin(5000)
    assert not turn.is_over(5999)
    assert turn.left(5400) == 600
    assert turn.is_over(6000)
    assert turn.left(6100) == 1


def test_a_turn_that_is_given_up_is_over_at_once_and_the_next_one_is_whole() -> None:
    turn = Turn(1000)
    turn.begin(0)
    turn.give_up()
    assert turn.is_over(1)
    turn.begin(1)
    assert not turn.is_over(1)
    assert turn.left(1) == 1000


def test_a_turn_that_must_not_end_yet_ends_at_twice_its_length() -> None:
    turn = Turn(1000)
    turn.begin(0)
    turn.give_up()
    assert not turn.is_over(1999, held=True)
    assert turn.is_over(1999)
    assert turn.is_over(2000, held=True)


def test_a_turn_shorter_than_a_block_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Turn(MIN_TURN_LEN - 1)


@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_other_lengths_of_turns_are_all_different_and_shorter_than_the_default(count: int) -> None:
    lengths = other_turn_lens(count)
    assert len(set(lengths)) == count
    assert list(lengths) == sorted(lengths)
    assert lengths[0] == 1500
    assert lengths[-1] < DEFAULT_TURN_LEN
    assert other_turn_lens(0) == ()

# SPDX-License-Identifier: MIT
"""Are sets of addresses what Python's own sets of the same numbers are?"""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vmipatch.image.ascending import among, distinct

numbers = st.lists(st.integers(-5, 60))


@given(numbers)
def test_distinct_is_a_sorted_set(values: list[int]) -> None:
    assert distinct(np.array(values, np.int64)).tolist() == sorted(set(values))


@given(numbers, numbers)
def test_among_is_membership(values: list[int], held: list[int]) -> None:
    found = among(np.array(values, np.int64), np.array(sorted(held), np.int64))
    assert found.tolist() == [value in held for value in values]

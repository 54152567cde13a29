# SPDX-License-Identifier: MIT
"""Is it known which kernels copy instructions over their paravirt calls, and how to stop them?"""

from __future__ import annotations

import pytest

from tests.rewrite.smallkernel import SmallKernel
from vmipatch.tables.paravirt_calls import COPIED, SWITCH, call_keeper


def kernel(*labels: str, has_switch: bool) -> SmallKernel:
    small = SmallKernel()
    small.text.function("f", "c3")
    for name in labels:
        small.text.label(name)
        small.text.put("fa")
    if has_switch:
        data = small.writable()
        data.put("00000000")
        data.label(SWITCH)
        data.put("00000000")
    return small


@pytest.mark.parametrize("copied", COPIED)
def test_a_kernel_that_copies_is_kept_from_it_by_its_variable(copied: str) -> None:
    small = kernel(copied, has_switch=True)
    assert call_keeper(small.image().symbols) == small.va(SWITCH) != 0


def test_a_kernel_that_copies_nothing_is_left_alone() -> None:
    """As those since 5.9 are, which have the variable all the same."""
    assert call_keeper(kernel(has_switch=True).image().symbols) == 0


def test_a_kernel_without_the_variable_cannot_be_kept_from_it() -> None:
    assert call_keeper(kernel(COPIED[0], has_switch=False).image().symbols) == 0

# SPDX-License-Identifier: MIT
"""Is it known which kernels copy instructions over their paravirt calls, and how to stop them?"""

from __future__ import annotations

import pytest

from tests.rewrite.smallkernel import Branch, SmallKernel, Word
from vmipatch.tables.find import find_all
from vmipatch.tables.paravirt_calls import (
    COPIED,
    NATIVE,
    PATCHER,
    RETURN,
    SWITCH,
    SWITCHED_ON,
    CallKeeper,
    call_keeper,
)


def kernel(*labels: str, has_switch: bool = False, has_patcher: bool = True) -> SmallKernel:
    small = SmallKernel()
    small.text.function("f", "c3")
    if has_patcher:
        small.text.function(PATCHER, "5589e5 c3")
    for name in labels:
        small.text.label(name)
        small.text.put("fa")
    data = small.writable()
    data.put("00000000")
    if has_switch:
        data.label(SWITCH)
    data.put("00000000")
    return small


def with_calls(small: SmallKernel) -> SmallKernel:
    """The kernel with one paravirt call and the table that names it."""
    small.text.function("calls", "ff15", Word("f"), "c3")
    data = small.rodata()
    data.label("__parainstructions")
    data.put(Word("calls"), "00060000")
    data.label("__parainstructions_end")
    return small


def keeper(small: SmallKernel) -> CallKeeper | None:
    image = small.image()
    return call_keeper(image.symbols, find_all(image))


@pytest.mark.parametrize("copied", COPIED)
def test_a_kernel_that_copies_is_kept_from_it_by_its_variable(copied: str) -> None:
    small = kernel(copied, has_switch=True)
    assert keeper(small) == CallKeeper(small.va(SWITCH), SWITCHED_ON)


@pytest.mark.parametrize("copied", COPIED)
def test_a_kernel_without_the_variable_is_kept_from_it_by_a_return(copied: str) -> None:
    """As Linux 2.6.20, those since 4.16, and those that came alone, without names of data."""
    small = kernel(copied)
    assert keeper(small) == CallKeeper(small.va(PATCHER), RETURN)


def test_a_kernel_whose_constants_have_no_name_is_known_by_its_function() -> None:
    """As Linux 5.2 to 5.8 that came alone."""
    small = with_calls(kernel(NATIVE))
    assert keeper(small) == CallKeeper(small.va(PATCHER), RETURN)


@pytest.mark.parametrize("call", ["e8", "0f1f440000", "3e8d742600"])
def test_call_of_the_tracer_stays_in_front_of_the_return(call: str) -> None:
    """ftrace compares it before it puts a nop there."""
    small = kernel(COPIED[0], has_patcher=False)
    first = (Branch("e8", "f"),) if call == "e8" else (call,)
    small.text.function(PATCHER, *first, "5589e5 c3")
    data = small.rodata()
    data.label("__start_mcount_loc")
    data.put(Word(PATCHER))
    data.label("__stop_mcount_loc")
    assert keeper(small) == CallKeeper(small.va(PATCHER) + 5, RETURN)


@pytest.mark.parametrize("has_switch", [True, False])
def test_a_kernel_that_copies_nothing_is_left_alone(has_switch: bool) -> None:
    """As those since 5.9 are, and before those that Xen did not need (no pointer for cli)."""
    assert keeper(kernel(has_switch=has_switch)) is None
    assert keeper(with_calls(kernel(has_switch=has_switch))) is None


def test_a_kernel_without_paravirt_calls_is_left_alone() -> None:
    assert keeper(kernel(NATIVE)) is None


def test_a_kernel_without_variable_and_function_cannot_be_kept_from_it() -> None:
    assert keeper(kernel(COPIED[0], has_patcher=False)) is None

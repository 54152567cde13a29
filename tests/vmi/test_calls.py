# SPDX-License-Identifier: MIT
"""Do call numbers agree with those that kernels of 2007 were built with?"""

from __future__ import annotations

import pytest

from vmipatch.vmi.calls import API_MAJOR, API_MINOR, VmiCall

LAST_OF_3_0 = 73


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (0, "CPUID"),
        (1, "WRMSR"),
        (14, "UPDATE_KERNEL_STACK"),
        (15, "SET_CR0"),
        (19, "GET_CR0"),
        (27, "RDTSC"),
        (29, "ENABLE_INTERRUPTS"),
        (30, "DISABLE_INTERRUPTS"),
        (33, "IRET"),
        (35, "HALT"),
        (46, "INVAL_PAGE"),
        (49, "INL"),
        (60, "OUTSW"),
        (73, "SET_LAZY_MODE"),
    ],
)
def test_number_is_that_of_the_2006_interface(number: int, name: str) -> None:
    """Numbers spread over the table of vmi_32.c: one inserted or dropped call moves one of them."""
    assert VmiCall(number).name == name


def test_numbers_have_no_gap() -> None:
    """The ROM's relocation table is indexed by them."""
    assert [call.value for call in VmiCall] == list(range(len(VmiCall)))
    assert len(VmiCall) > LAST_OF_3_0


def test_own_calls_are_a_minor_version() -> None:
    assert (API_MAJOR, API_MINOR) == (3, 1)
    assert all(call > LAST_OF_3_0 for call in (VmiCall.SET_XCR, VmiCall.READ_SEGMENT))

# SPDX-License-Identifier: MIT
"""Is the table of calls complete, and is the page that is made of it current?"""

from __future__ import annotations

from tools.calls_page import PAGE, page
from vmipatch.choices import Flavor
from vmipatch.rom.entries import SERVED, Means, served_calls
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.table import ROWS, ArgumentSource

LAST_OF_3_0 = 73


def test_every_number_has_one_row_in_order() -> None:
    assert [row.call for row in ROWS] == sorted(VmiCall)
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_own_calls_begin_after_api_3_0() -> None:
    assert all((row.source is ArgumentSource.OWN) is (row.call > LAST_OF_3_0) for row in ROWS)


def test_every_documented_call_of_3_0_is_served_or_declined_by_name() -> None:
    declined = {VmiCall.WRMSR, VmiCall.RDMSR, VmiCall.RDPMC, VmiCall.IO_DELAY}
    served = set(served_calls(Flavor.PARAVIRT))
    for row in ROWS[: LAST_OF_3_0 + 1]:
        assert (row.call in served) is (row.is_documented and row.call not in declined), row.name


def test_hot_calls_do_not_always_leave_the_guest() -> None:
    exits = {row.call for row in ROWS if row.hot and SERVED.get(row.call) is Means.HYPERCALL}
    assert exits == {VmiCall.SYSEXIT}, "whose fast system calls the processor does not show"


def test_page_of_the_calls_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m tools.calls_page`"

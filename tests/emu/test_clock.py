# SPDX-License-Identifier: MIT
"""Does virtual time follow executed code, and nothing else?"""

from __future__ import annotations

from tests.emu.devices.board import make_clock
from vmipatch.emu.clock import CELLS_LEN, MAX_SLICE, NS_PER_BYTE, Clock
from vmipatch.vmi.shared import TSC_STEP, Time


def test_time_is_what_the_counter_has_counted() -> None:
    cells = bytearray(CELLS_LEN)
    clock = Clock(memoryview(cells))
    words = memoryview(cells).cast("q")
    clock.grant_slice()
    assert clock.now_ns == 0
    assert words[Time.LEFT // 8] == MAX_SLICE
    words[Time.LEFT // 8] -= 1000
    assert clock.now_ns == 1000 * NS_PER_BYTE
    assert clock.executed_len == 1000


def test_cells_hold_what_the_rom_computes_the_time_from() -> None:
    cells = bytearray(CELLS_LEN)
    clock = Clock(memoryview(cells))
    clock.grant_slice()
    clock.at(5_000_000, lambda: None)
    clock.sleep()
    words = memoryview(cells).cast("q")
    scale = memoryview(cells).cast("I")[Time.SCALE // 4]
    left, base, skew = (words[off // 8] for off in (Time.LEFT, Time.BASE, Time.SKEW))
    assert (base - left) * scale + skew == clock.now_ns == 5_000_000


def test_each_reading_of_the_tsc_is_later_by_a_fixed_step() -> None:
    clock = make_clock()
    assert [clock.read_tsc() for _ in range(3)] == [TSC_STEP, 2 * TSC_STEP, 3 * TSC_STEP]


def test_slice_ends_at_the_next_alarm() -> None:
    cells = bytearray(CELLS_LEN)
    clock = Clock(memoryview(cells))
    clock.at(NS_PER_BYTE * 10 + 1, lambda: None)
    clock.grant_slice()
    assert memoryview(cells).cast("q")[0] == 11


def test_alarm_set_while_a_slice_runs_shortens_it() -> None:
    cells = bytearray(CELLS_LEN)
    clock = Clock(memoryview(cells))
    clock.grant_slice()
    clock.at(NS_PER_BYTE * 7, lambda: None)
    assert memoryview(cells).cast("q")[0] == 7
    assert clock.now_ns == 0


def test_readings_of_the_tsc_bring_an_alarm_nearer() -> None:
    cells = bytearray(CELLS_LEN)
    clock = Clock(memoryview(cells))
    clock.at(TSC_STEP * 3, lambda: None)
    clock.grant_slice()
    before = memoryview(cells).cast("q")[0]
    clock.read_tsc()
    after = memoryview(cells).cast("q")[0]
    assert before - after >= TSC_STEP // NS_PER_BYTE
    assert clock.now_ns == TSC_STEP


def test_alarms_ring_in_order_and_cancelled_ones_do_not() -> None:
    clock = make_clock()
    rung: list[str] = []
    clock.at(20, lambda: rung.append("late"))
    clock.at(10, lambda: rung.append("early"))
    clock.at(10, lambda: rung.append("second"))
    clock.at(15, lambda: rung.append("never")).cancel()
    while clock.sleep():
        clock.run_due()
    assert rung == ["early", "second", "late"]
    assert clock.now_ns == 20


def test_who_sets_and_cancels_for_ever_does_not_fill_the_hosts_memory() -> None:
    clock = make_clock()
    rung: list[str] = []
    clock.at(5, lambda: rung.append("kept"))
    for _ in range(10_000):
        clock.at(1 << 50, lambda: rung.append("never")).cancel()
    assert len(clock._alarms) < 200
    clock.sleep()
    clock.run_due()
    assert rung == ["kept"]
    assert clock.next_due_ns is None

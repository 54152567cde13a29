# SPDX-License-Identifier: MIT
"""Do two processors that execute random code reach nothing more, one of them in real mode too?

No Python exception may come of it, no run beyond its virtual time, and CPL 0 is seen in real mode
alone (docs/decisions/0033). `make guests` runs many more.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.emu.hypervisor.random_processors import LATE_NS, LIMIT_NS, Fate, fate, fates, report
from vmipatch.choices import Mode

SAMPLE, CAMPAIGN = 8, 500


@pytest.mark.parametrize("mode", Mode)
def test_some_guests(mode: Mode) -> None:
    each = [fate(seed, mode) for seed in range(SAMPLE)]
    assert not [why for one in each if (why := one.fault(mode))]
    assert any(one.ran == (0, 1) for one in each)


@pytest.mark.slow
@pytest.mark.parametrize("mode", Mode)
def test_many_guests(mode: Mode) -> None:
    each = list(fates(mode, CAMPAIGN))
    assert len(each) == CAMPAIGN
    assert len(report(mode, each)) == 1
    assert sum(one.ran == (0, 1) for one in each) > CAMPAIGN // 2


@pytest.mark.parametrize(
    "change",
    [
        {"ending": ""},
        {"ending": "ESCAPED"},
        {"ending": "TIMEOUT"},
        {"ring0": "of processor 0 at 0x101000"},
        {"now_ns": LIMIT_NS + LATE_NS + 1},
    ],
)
def test_what_no_guest_may_do_is_told(change: dict[str, str | int]) -> None:
    good = Fate(7, "HALTED", "", (0, 1), "", 1_000_000, 0.5)
    told = report(Mode.TRAP, [good, replace(good, **change)])  # type: ignore[arg-type]
    assert "2 guests, both processors executed random code in 2, 1 findings" in told[0]
    assert told[1].startswith("  trap 7: ")
    assert len(report(Mode.TRAP, [good])) == 1

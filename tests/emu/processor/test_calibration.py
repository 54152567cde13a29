# SPDX-License-Identifier: MIT
"""Is another Unicorn, or one built otherwise, refused with a clear word?"""

from __future__ import annotations

import pytest

from vmipatch.emu.processor import bench, calibration, cpu, engine, state
from vmipatch.emu.processor.memory import MIN_RAM_LEN, GuestMemory
from vmipatch.errors import EnvironmentProblem


@pytest.mark.parametrize("name", calibration.CHECKS)
def test_this_unicorn_is_the_one_that_was_measured(name: str) -> None:
    assert calibration.CHECKS[name](bench.Bench())


def test_check_that_does_not_hold_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(calibration.CHECKS, "page faults", lambda bench: False)
    calibration.check_unicorn.cache_clear()
    with pytest.raises(EnvironmentProblem, match="page faults do not work"):
        calibration.check_unicorn()


def test_other_release_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine._BINDING, "__version__", "2.1.5")
    with pytest.raises(EnvironmentProblem, match=r"Unicorn 2\.1\.5"):
        engine._check_version()


def test_state_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "STATE_OFF", state.STATE_OFF + 8)
    with pytest.raises(EnvironmentProblem, match="unknown form"):
        bench.Bench()


def test_other_host_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(EnvironmentProblem, match="aarch64"):
        bench.Bench()


def test_holes_and_ram_do_not_overlap_for_the_cpu() -> None:
    memory = GuestMemory(MIN_RAM_LEN)
    ends = [pa + length for pa, length in memory.holes(cpu.PHYSICAL_END)]
    assert ends[-1] == cpu.PHYSICAL_END < cpu.CONTROL_PA

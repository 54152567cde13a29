# SPDX-License-Identifier: MIT
"""Do the stages of rewriting add up, and are they still what the command calls?"""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from benchmarks.report import stage_lines
from benchmarks.rewrite_stages import REST, STAGES, measure_stages
from examples.guest.build import build
from tests.conftest import KernelFinder

PLACES = [place for places in STAGES.values() for place in places]


@pytest.mark.parametrize("place", PLACES)
def test_each_stage_is_a_function_that_the_command_calls_by_that_name(place: str) -> None:
    module, attribute = place.split(":")
    assert callable(getattr(importlib.import_module(module), attribute))


def test_stages_take_time_and_packing_none_where_nothing_is_packed(tmp_path: Path) -> None:
    guest = tmp_path / "vmlinux"
    guest.write_bytes(build())
    cost = measure_stages("guest", guest)
    assert set(cost.stages) == {*STAGES, REST}
    assert all(cost.stages[stage] > 0 for stage in ("scan", "plan", "emit", "note"))
    assert cost.stages["compress"] == 0
    assert cost.peak_len > 1 << 20
    assert cost.output_len > cost.input_len


@pytest.mark.kernels
def test_table_says_whether_a_bzimage_grew_too_much(kernel: KernelFinder) -> None:
    vmlinux = kernel("tiny-os")
    cost = measure_stages("tiny-os", vmlinux.with_name("bzImage"), vmlinux)
    assert cost.stages["compress"] > 0
    assert cost.stages["find recipe"] > 0
    verdict = list(stage_lines([cost]))[-2]
    assert verdict.split()[-1] == ("met" if cost.growth_per_cent <= 2 else "MISSED")

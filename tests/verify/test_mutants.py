# SPDX-License-Identifier: MIT
"""A sample of the mutation campaign: is a fault of every kind found?

VMIPATCH_SEED gives another seed; `new` draws one.
"""

from __future__ import annotations

import pytest

from tests.conftest import KernelFinder
from tests.support.draws import drawn_seed
from tests.verify.campaign import (
    EQUIVALENT,
    FOUND,
    MISSED,
    FaultOutcome,
    page,
    try_alone,
    try_roms,
    try_together,
)
from tests.verify.faults import Victim
from tests.verify.mutants import ALONE, TOGETHER
from tests.verify.rom_faults import KINDS
from vmipatch.image.elf import ElfImage
from vmipatch.rewrite.rewrite import RewriteOptions


@pytest.fixture(scope="module")
def victim(kernel: KernelFinder) -> Victim:
    original = ElfImage.parse(kernel("tiny").read_bytes(), "tiny")
    return Victim(original, RewriteOptions())


@pytest.fixture
def seed() -> int:
    return drawn_seed()


@pytest.mark.kernels
def test_fault_of_each_kind_is_found_at_its_place(victim: Victim, seed: int) -> None:
    outcomes = try_together(victim, seed, 1)
    assert {outcome.kind for outcome in outcomes} == set(TOGETHER), "each kind was seeded"
    assert [outcome for outcome in outcomes if outcome.result == MISSED] == []


@pytest.mark.kernels
@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(ALONE))
def test_fault_that_needs_a_file_of_its_own_is_found(victim: Victim, seed: int, kind: str) -> None:
    outcomes = try_alone(victim, kind, seed)
    assert outcomes
    assert all(outcome.result != MISSED for outcome in outcomes)


@pytest.mark.kernels
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_fault_of_the_rom_is_found_by_execution(victim: Victim, seed: int, kind: str) -> None:
    outcomes = try_roms(victim, kind, seed, 1)
    assert [outcome.result for outcome in outcomes] == [FOUND]


def test_page_counts_equivalent_faults_apart() -> None:
    results = [FOUND] * 5 + [EQUIVALENT] * 2 + [MISSED]
    text = page([("k", FaultOutcome("native bit", result, "")) for result in results], [7])
    assert "Seeds 7: 5 of 6 faults found, 1 missed, 2 equivalent." in text
    assert "| native bit | 5 | 6 | 2 |" in text

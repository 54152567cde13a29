# SPDX-License-Identifier: MIT
"""Does the static proof find every seeded fault, and say where it is?

VMIPATCH_SEED gives another seed; `new` draws one.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from tests.conftest import KernelFinder
from tests.support.draws import drawn_seed
from tests.verify import faults
from tests.verify.faults import SeededFault, Victim
from vmipatch.choices import Padding
from vmipatch.image.elf import ElfImage
from vmipatch.rewrite.rewrite import RewriteOptions
from vmipatch.tables.find import find_all
from vmipatch.tables.table import TableName
from vmipatch.verify.static import StaticFinding, check_static
from vmipatch.verify.static.rules import RECORD_OVERLAP

pytestmark = pytest.mark.kernels

OF_EACH_KIND = 20
TABLES_AT_ONCE = 4
"""Findings of one rule are kept up to 100: so many tables fit into one image."""


@pytest.fixture
def dice() -> random.Random:
    return random.Random(drawn_seed())


@pytest.fixture(scope="module", params=list(Padding))
def victim(request: pytest.FixtureRequest, kernel: KernelFinder) -> Victim:
    """tiny, rewritten with each kind of padding."""
    original = ElfImage.parse(kernel("tiny").read_bytes(), "tiny")
    return Victim(original, RewriteOptions(request.param))


@pytest.fixture
def whole(victim: Victim) -> Victim:
    victim.heal()
    return victim


def missed(victim: Victim, seeded: Iterable[SeededFault]) -> list[SeededFault]:
    """Run the proof and return the faults to which no finding points."""
    every = list(seeded)
    findings = check_static(victim.original, victim.damaged).findings
    return [fault for fault in every if not any(points_at(f, fault) for f in findings)]


def points_at(finding: StaticFinding, fault: SeededFault) -> bool:
    """Whether a finding is at the fault, or at the record whose body the fault is in.

    A record that claims its neighbour's site is the other one of two that share bytes.
    """
    if finding.rule is RECORD_OVERLAP and fault.place in finding.message:
        return True
    inside = fault.va <= finding.va < fault.va + fault.length
    return fault.place in finding.place and (inside or f"{fault.va:#x}" in finding.message)


def test_whole_output_is_proven(whole: Victim) -> None:
    verdict = check_static(whole.original, whole.whole)
    assert verdict.holds, "\n".join(map(str, verdict.findings))


def test_wrong_branches_are_found(whole: Victim, dice: random.Random) -> None:
    seeded = [
        *faults.branches_off_by_one(whole, dice, OF_EACH_KIND),
        *faults.branches_left_behind(whole, dice, OF_EACH_KIND),
    ]
    assert len(seeded) == 2 * OF_EACH_KIND
    assert not missed(whole, seeded)


def test_wrong_bytes_of_sites_and_other_code_are_found(whole: Victim, dice: random.Random) -> None:
    seeded = [
        *faults.native_bytes_changed(whole, dice, OF_EACH_KIND),
        *faults.paddings_wrong(whole, dice, OF_EACH_KIND),
    ]
    assert len(seeded) == 2 * OF_EACH_KIND
    assert not missed(whole, seeded)


def test_table_entries_left_after_are_found(whole: Victim, dice: random.Random) -> None:
    seed_tables(whole, dice)


@pytest.mark.slow
def test_table_entries_of_a_large_kernel_left_after_are_found(
    kernel: KernelFinder, dice: random.Random
) -> None:
    original = ElfImage.parse(kernel("smp-pae").read_bytes(), "smp-pae")
    seed_tables(Victim(original, RewriteOptions()), dice)


def seed_tables(victim: Victim, dice: random.Random) -> None:
    """Damage every table that has words which move, a few tables at once."""
    tables = [t for t in find_all(victim.original) if faults.moved_words(victim, t)]
    assert {TableName.EX_TABLE, TableName.KALLSYMS, TableName.BUG_TABLE} <= {t.name for t in tables}
    for at in range(0, len(tables), TABLES_AT_ONCE):
        victim.heal()
        group = tables[at : at + TABLES_AT_ONCE]
        seeded = [
            fault
            for table in group
            for fault in faults.table_words_left_behind(victim, dice, table, OF_EACH_KIND)
        ]
        assert not missed(victim, seeded), [t.name for t in group]


def test_wrong_record_fields_are_found(whole: Victim, dice: random.Random) -> None:
    seeded = list(faults.record_fields(whole, dice, OF_EACH_KIND))
    assert len(seeded) == len(faults.FIELDS) * OF_EACH_KIND
    assert not missed(whole, seeded)

# SPDX-License-Identifier: MIT
"""Each table, in a small image: is it read as built, refused when damaged, emitted as it was."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tables import (
    samples_code,
    samples_names,
    samples_odd,
    samples_old_code,
    samples_old_names,
    samples_records,
)
from tests.tables.scene import DATA_VA, TABLE_VA, TEXT_LEN, TEXT_VA, TableDamage, TableSample
from vmipatch.errors import InputNotUnderstood, MalformedTable
from vmipatch.image.elf import ElfImage
from vmipatch.tables.emit import emit, store
from vmipatch.tables.find import KINDS, find_all
from vmipatch.tables.layout import TableKind
from vmipatch.tables.table import U32, Table, TableName, WordForm, stay
from vmipatch.tables.view import ImageView

MODULES = (
    samples_code,
    samples_old_code,
    samples_names,
    samples_old_names,
    samples_records,
    samples_odd,
)
SAMPLES = [make() for module in MODULES for make in module.SAMPLES]
each_sample = pytest.mark.parametrize("sample", SAMPLES, ids=str)


def found(sample: TableSample) -> Table:
    table = find_all(sample.image).get(sample.name)
    assert table is not None
    return table


def written(image: ElfImage, table: Table, move: Callable[[U32], U32]) -> ElfImage:
    """The image with what the table emits under `move` stored in place."""
    emission = emit(table, move)
    data = bytearray(image.data)
    store(data, np.array([image.offset_of(va) for va in emission.va.tolist()], int), emission.value)
    return ElfImage.parse(bytes(data), image.name)


def test_every_known_table_has_a_sample() -> None:
    assert {sample.name for sample in SAMPLES} == set(TableName)
    assert [kind.name for kind in KINDS if kind.name not in TableName] == []
    assert {kind.name for kind in KINDS} == set(TableName)


@each_sample
def test_words_and_places_are_those_that_were_built(sample: TableSample) -> None:
    table = found(sample)
    words = dict(zip(table.words["va"].tolist(), table.words["target_va"].tolist(), strict=True))
    places = list(zip(table.places["va"].tolist(), table.places["len"].tolist(), strict=True))
    assert words == sample.targets
    assert places == sample.places


def test_every_known_layout_has_a_sample() -> None:
    """Tables that share their layouts count as one, and one length of trace events for all."""
    family = {
        kind.name: (tuple(layout.name for layout in kind.layouts), kind.layouts)
        for kind in KINDS
        if isinstance(kind, TableKind)
    }
    sampled = {
        (family[sample.name][0], found(sample).layout)
        for sample in SAMPLES
        if sample.name in family
    }
    known = {
        (names, layout.name)
        for names, layouts in family.values()
        for layout in layouts
        if "ftrace_event_call" not in layout.name
    }
    assert known - sampled == set()


@each_sample
def test_nothing_changes_when_nothing_moves(sample: TableSample) -> None:
    assert written(sample.image, found(sample), stay).data == sample.image.data


@pytest.mark.parametrize(
    ("sample", "damage"),
    [
        pytest.param(sample, damage, id=f"{sample}-{damage.reason}-{index}")
        for sample in SAMPLES
        for index, damage in enumerate(sample.damages)
    ],
)
def test_damage_is_refused_by_table_entry_and_reason(
    sample: TableSample, damage: TableDamage
) -> None:
    """Of several layouts the one that fits best is quoted: in a table of two or three entries
    that need not be the sample's own, which is asked here.
    """
    damaged = damage.of(sample.image)
    with pytest.raises(MalformedTable) as refusal:
        find_all(damaged)
    assert refusal.value.file == "sample"
    assert refusal.value.place is not None
    kind = next(kind for kind in KINDS if kind.name is sample.name)
    table = found(sample)
    if isinstance(kind, TableKind):
        layout = next(layout for layout in kind.layouts if layout.name == table.layout)
        with pytest.raises(MalformedTable) as refusal:
            extent = kind.locate(damaged)
            assert extent is not None
            layout.read(ImageView.of(damaged), sample.name, extent)
    assert damage.reason in refusal.value.message


def decoded(form: WordForm, stored: int, va: int, base_va: int) -> int:
    """The address in a stored word, by the formulas of the manuals."""
    origin = {
        WordForm.ABSOLUTE: 0,
        WordForm.RELATIVE: va,
        WordForm.BRANCH: va + 4,
        WordForm.COPIED_BRANCH: va + 4,
        WordForm.BASE_RELATIVE: base_va,
        WordForm.PHYSICAL: base_va,
        WordForm.VALUE: 0,
    }
    return (stored + origin[form]) & 0xFFFFFFFF


@each_sample
@settings(max_examples=20)
@given(gaps=st.lists(st.tuples(st.integers(0, TEXT_LEN), st.integers(1, 64)), max_size=8))
def test_targets_follow_any_growth_of_the_code(
    sample: TableSample, gaps: list[tuple[int, int]]
) -> None:
    """Code after each of `gaps` moves up; what lies after .text moves by a page."""

    def new(va: int) -> int:
        if not TEXT_VA <= va < TEXT_VA + TEXT_LEN:
            return va + 0x1000 if va >= TABLE_VA else va
        return va + sum(size for at, size in gaps if at <= va - TEXT_VA)

    def move(vas: U32) -> U32:
        return np.array([new(va) for va in vas.tolist()], np.uint32)

    table = found(sample)
    emission = emit(table, move, move)
    values = dict(zip(emission.va.tolist(), emission.value.tolist(), strict=True))
    assert not emission.reordered
    base_va = table.base_va
    for word in table.words:
        form = WordForm(int(word["form"]))
        base = new(base_va) if form is WordForm.BASE_RELATIVE else base_va
        va = new(int(word["va"]))
        address = decoded(form, values[va], va, base)
        target = sample.targets[int(word["va"])]
        moved = target if sample.values else new(target)
        bias = int(word["bias"])
        if form is WordForm.COPIED_BRANCH:  # gaps never tear the jump that the copy replaces
            copy_va = int(word["va"]) - bias
            bias = va - new(copy_va - 1) - 1
        assert address == (moved + bias) & 0xFFFFFFFF


@each_sample
@settings(max_examples=20)
@given(at=st.integers(0, 0x1FF), value=st.binary(min_size=1, max_size=12))
def test_nothing_but_a_refusal_follows_from_wrong_bytes(
    sample: TableSample, at: int, value: bytes
) -> None:
    """Any bytes may be wrong in the table's section: it is still valid, or refused in our words."""
    section = sample.image.section_at(next(iter(sample.targets), TABLE_VA))
    assert section is not None
    wrong = TableDamage(
        "", section.va + at % section.size, value[: section.size - at % section.size]
    )
    with contextlib.suppress(InputNotUnderstood):
        image = wrong.of(sample.image)
        assert all(written(image, table, stay).data == image.data for table in find_all(image))


def test_branches_of_trampolines_follow_place_and_target() -> None:
    sample = samples_code.static_calls()
    emission = emit(found(sample), lambda va: va + np.uint32(0x30), lambda va: va + np.uint32(7))
    ((va, target),) = sample.targets.items()
    assert emission.va.tolist() == [va + 7]
    assert emission.value.tolist() == [(target + 0x30 - (va + 7 + 4)) & 0xFFFFFFFF]


def test_flags_of_keys_are_kept() -> None:
    sample = samples_code.jump_table()
    table = found(sample)
    image = written(sample.image, table, lambda va: np.where(va >= DATA_VA, va + 0x20, va))
    key = struct.unpack("<i", image.read(TABLE_VA + 8, 4))[0]
    assert TABLE_VA + 8 + key == DATA_VA + 8 + 0x20 + 1


def test_code_words_leave_out_data_and_named_addresses() -> None:
    bugs = found(samples_code.bug_table())
    assert bugs.code_words["va"].tolist() == [TABLE_VA, TABLE_VA + 12]
    assert not len(found(samples_names.kallsyms()).code_words)

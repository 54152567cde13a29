# SPDX-License-Identifier: MIT
"""Does a table keep the order the kernel searches it by, when functions change places?"""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tables import samples_code, samples_names, samples_odd
from tests.tables.scene import TABLE_VA, TEXT_VA, TableSample, TextScene, relatives, word
from vmipatch.tables.emit import Emission, emit, store
from vmipatch.tables.find import find_all
from vmipatch.tables.table import U32, Table, TableName, stay

PAGE = np.uint32(0x1000)
SPAN = 0x100


def table_of(sample: TableSample) -> Table:
    table = find_all(sample.image).get(sample.name)
    assert table is not None
    return table


def swapped(va: U32) -> U32:
    """The map that exchanges the first two blocks of 32 bytes of .text, and a page of addresses."""
    block = (va - np.uint32(TEXT_VA)) // 32
    return np.where(block == 0, va + 32, np.where(block == 1, va - 32, va)).astype(np.uint32)


def mirrored(va: U32) -> U32:
    """The map that turns the first SPAN bytes of .text around."""
    offset = va - np.uint32(TEXT_VA)
    return np.where(offset < SPAN, np.uint32(TEXT_VA + SPAN) - offset, va).astype(np.uint32)


def bytes_of(emission: Emission, length: int) -> bytes:
    """The words of an emission as the bytes of a table that it covers whole."""
    data = bytearray(length)
    store(data, (emission.va - emission.va[0]).astype(np.int64), emission.value)
    return bytes(data)


def test_exception_table_is_sorted_again_with_its_types() -> None:
    scene = TextScene()
    rows = [(0x10, 0x200, 3), (0x30, 0x100, 4), (0x50, 0x180, 5)]
    data = b"".join(
        relatives(TEXT_VA + insn, TEXT_VA + fixup, at_va=TABLE_VA + 12 * i) + word(kind)
        for i, (insn, fixup, kind) in enumerate(rows)
    )
    scene.table("__ex_table", data, "__start___ex_table", "__stop___ex_table")
    table = find_all(scene.image()).get(TableName.EX_TABLE)
    assert table is not None
    emission = emit(table, swapped, lambda va: va + PAGE)
    assert emission.reordered
    assert emission.va[0] == TABLE_VA + PAGE
    seen = []
    for i, (insn, fixup, kind) in enumerate(struct.iter_unpack("<iiI", bytes_of(emission, 36))):
        va = TABLE_VA + int(PAGE) + 12 * i
        seen.append((va + insn - TEXT_VA, va + 4 + fixup - TEXT_VA, kind))
    assert seen == [(0x10, 0x100, 4), (0x30, 0x200, 3), (0x50, 0x180, 5)]


def test_mcount_is_sorted_again() -> None:
    sample = samples_code.mcount()
    table = table_of(sample)
    emission = emit(table, mirrored)
    values = emission.value.tolist()
    assert emission.reordered
    assert values == sorted(2 * TEXT_VA + SPAN - va for va in sample.targets.values())
    assert emission.va.tolist() == list(sample.targets)


def test_emptied_entries_stay_in_front_of_the_sorted_ones() -> None:
    sample = samples_odd.mcount_with_emptied_entries()
    emission = emit(table_of(sample), mirrored)
    assert emission.reordered
    moved = sorted(2 * TEXT_VA + SPAN - va for va in sample.targets.values())
    assert emission.value.tolist() == [0, 0, *moved]


def test_kallsyms_reports_what_comes_out_of_order() -> None:
    table = table_of(samples_names.kallsyms())
    assert emit(table, stay).in_order

    def move_last_down(va: U32) -> U32:
        return np.where(va > TEXT_VA + 0x10, TEXT_VA + 4, va).astype(np.uint32)

    emission = emit(table, move_last_down)
    assert not emission.in_order
    assert emission.misordered is not None
    assert emission.misordered.tolist() == [3]
    assert emission.value.tolist() == [0, 0, 0x10, 4]


def test_physical_entry_counts_from_a_base_that_does_not_move() -> None:
    sample = samples_names.pvh_note()
    emission = emit(table_of(sample), lambda va: va + PAGE, lambda va: va + PAGE)
    (target,) = sample.targets.values()
    assert emission.value.tolist() == [target + PAGE - 0xC0000000]


def test_order_of_alternatives_is_never_touched() -> None:
    table = table_of(samples_code.alternatives())
    emission = emit(table, mirrored)
    assert not emission.reordered
    assert emission.va.tolist() == table.words["va"].tolist()


@given(
    insns=st.lists(st.integers(0, 0x1FF), min_size=1, max_size=20, unique=True),
    cut=st.integers(0, 0x200),
)
def test_a_rotation_of_the_code_leaves_the_exception_table_searchable(
    insns: list[int], cut: int
) -> None:
    """Functions in front of `cut` change places with those after it; pairs stay together."""

    def new(va: int) -> int:
        return TEXT_VA + (va - TEXT_VA - cut) % 0x200 if va < TEXT_VA + 0x200 else va

    scene = TextScene()
    data = b""
    for i, insn in enumerate(sorted(insns)):
        fixup = TEXT_VA + 0x200 + insn // 2
        data += relatives(TEXT_VA + insn, fixup, at_va=TABLE_VA + 12 * i) + word(insn % 32)
    scene.table("__ex_table", data, "__start___ex_table", "__stop___ex_table")
    table = find_all(scene.image()).get(TableName.EX_TABLE)
    assert table is not None
    emission = emit(table, lambda va: np.array([new(v) for v in va.tolist()], np.uint32))
    out = bytearray(data)
    store(out, (emission.va - np.uint32(TABLE_VA)).astype(np.int64), emission.value)
    rows = []
    for i, (insn, fixup, kind) in enumerate(struct.iter_unpack("<iiI", bytes(out))):
        va = TABLE_VA + 12 * i
        rows.append((va + insn, va + 4 + fixup, kind))
    assert rows == sorted(
        (new(TEXT_VA + insn), TEXT_VA + 0x200 + insn // 2, insn % 32) for insn in insns
    )


def test_words_are_stored_where_no_word_is_aligned() -> None:
    data = bytearray(9)
    store(data, np.array([1, 5]), np.array([0x01020304, 0xFFFFFFFE], np.uint32))
    assert data.hex() == "0004030201feffffff"


@pytest.mark.parametrize("name", [TableName.EX_TABLE, TableName.MCOUNT])
def test_order_that_holds_is_not_reported_as_changed(name: TableName) -> None:
    make = {TableName.EX_TABLE: samples_code.ex_table, TableName.MCOUNT: samples_code.mcount}
    assert not emit(table_of(make[name]()), lambda va: va + PAGE).reordered

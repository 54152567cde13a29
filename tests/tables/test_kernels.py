# SPDX-License-Identifier: MIT
"""On real kernels: are all address words of the tables found, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from vmipatch.image.elf import ElfImage
from vmipatch.image.relocations import R_386_32, Relocations
from vmipatch.tables.emit import emit, store
from vmipatch.tables.find import find_all
from vmipatch.tables.table import Table, TableName, Tables, WordForm, stay

pytestmark = pytest.mark.kernels

Kernel = Callable[[str], Path]
NAMES = ("tiny", "tiny-os", "smp-pae")
each_kernel = pytest.mark.parametrize("name", NAMES)

UNRELOCATED = {TableName.EX_TABLE, TableName.KALLSYMS}
"""The build sorts the one and clears its relocations; the other is made of plain differences."""

EVERYWHERE = {
    TableName.EX_TABLE,
    TableName.KALLSYMS,
    TableName.KALLSYMS_BASE,
    TableName.ALTERNATIVES,
    TableName.ALTINSTR_REPLACEMENT,
    TableName.BUG_TABLE,
    TableName.STATIC_CALLS,
    TableName.INITCALLS,
    TableName.CON_INITCALLS,
    TableName.SYSCALLS,
    TableName.IRQ_STUBS,
    TableName.EARLY_STUBS,
    TableName.SETUP_PARAMS,
    TableName.MODULE_PARAMS,
    TableName.CPU_DEVICES,
}

OLD = {
    TableName.INLINE_BUGS,
    TableName.SMP_ALTERNATIVES,
    TableName.SECURITY_INITCALLS,
    TableName.IOMMU,
    TableName.TRACEPOINT_ARRAY,
    TableName.MARKERS,
    TableName.KSYMTAB_UNUSED,
    TableName.KSYMTAB_UNUSED_GPL,
    TableName.KSYMTAB_GPL_FUTURE,
    TableName.KCRCTAB_UNUSED,
    TableName.KCRCTAB_UNUSED_GPL,
    TableName.KCRCTAB_GPL_FUTURE,
    TableName.INTERRUPTS,
}
"""Tables that 6.1 no longer has."""

NEW = {TableName.RUNTIME_CONSTANTS}
"""Tables that 6.1 has not yet."""

ABSENT = OLD | NEW | {TableName.PVH_NOTE, TableName.KCRCTAB, TableName.KCRCTAB_GPL}
"""Tables that smp-pae was built without: it has neither a PVH entry nor checksums of exports."""


@cache
def load(path: Path) -> tuple[ElfImage, Relocations, Tables]:
    image = ElfImage.parse(path.read_bytes(), path.parent.name)
    return image, Relocations.of(image), find_all(image)


@each_kernel
def test_expected_tables_are_found(kernel: Kernel, name: str) -> None:
    _, _, tables = load(kernel(name))
    found = {table.name for table in tables}
    assert found >= EVERYWHERE
    if name == "smp-pae":
        assert set(TableName) - found == ABSENT


@each_kernel
def test_words_found_are_the_words_the_linker_filled(kernel: Kernel, name: str) -> None:
    _, relocations, tables = load(kernel(name))
    place = relocations.entries["va"]
    for table in tables:
        inside = place[(place >= table.start_va) & (place < table.end_va)]
        if table.name in UNRELOCATED:
            assert not len(inside), table.name
        else:
            assert np.array_equal(np.unique(inside), table.words["va"]), table.name


@each_kernel
def test_forms_agree_with_kinds_of_relocation(kernel: Kernel, name: str) -> None:
    _, relocations, tables = load(kernel(name))
    for table in tables:
        _, ours, theirs = np.intersect1d(
            table.words["va"], relocations.entries["va"], return_indices=True
        )
        is_absolute = table.words["form"][ours] == WordForm.ABSOLUTE
        assert np.array_equal(is_absolute, relocations.entries["kind"][theirs] == R_386_32)


@each_kernel
def test_tables_are_emitted_as_they_were(kernel: Kernel, name: str) -> None:
    image, _, tables = load(kernel(name))
    data = bytearray(image.data)
    for table in tables:
        start_off = image.offset_of(table.start_va)
        data[start_off : start_off + table.end_va - table.start_va] = _without_words(image, table)
        emission = emit(table, stay)
        assert not emission.reordered
        assert emission.in_order
        store(data, emission.va.astype(np.int64) - table.start_va + start_off, emission.value)
    assert data == image.data


def _without_words(image: ElfImage, table: Table) -> bytes:
    """The bytes of a table with every address word overwritten."""
    data = bytearray(image.read(table.start_va, table.end_va - table.start_va))
    at = table.words["va"].astype(np.int64) - table.start_va
    store(data, at, np.full(len(at), 0xA5A5A5A5, np.uint32))
    return bytes(data)


@each_kernel
def test_no_place_overlaps_another_of_its_table(kernel: Kernel, name: str) -> None:
    """But for alternatives, whose entries share originals."""
    _, _, tables = load(kernel(name))
    for table in tables:
        if table.name is TableName.ALTERNATIVES:
            continue
        places = np.sort(table.places, order="va")
        ends = places["va"].astype(np.int64) + places["len"]
        assert (ends[:-1] <= places["va"][1:]).all(), table.name


@each_kernel
def test_all_sections_moving_alike_changes_absolute_words_only(kernel: Kernel, name: str) -> None:
    _, _, tables = load(kernel(name))
    pages = np.uint32(0x3000)
    for table in tables:
        before = emit(table, stay)
        after = emit(table, lambda va: va + pages, lambda va: va + pages)
        moved = after.value - before.value
        is_absolute = table.words["form"] == WordForm.ABSOLUTE
        assert np.array_equal(moved, np.where(is_absolute, pages, 0)), table.name

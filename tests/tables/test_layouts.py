# SPDX-License-Identifier: MIT
"""Is a layout recognised by validation alone, and a table found by what names it?"""

from __future__ import annotations

import struct

import pytest

from tests.support.elfbuilder import STB_GLOBAL, STB_LOCAL, TEXT
from tests.tables import samples_code
from tests.tables.scene import (
    DATA_VA,
    OUTSIDE,
    RODATA_VA,
    TABLE_VA,
    TEXT_VA,
    TextScene,
    relatives,
    word,
)
from vmipatch.errors import MalformedTable
from vmipatch.image.symbols import STT_FUNC, STT_NOTYPE, STT_OBJECT
from vmipatch.tables.find import find_all
from vmipatch.tables.table import Role, Table, TableName, WordForm


def table_of(scene: TextScene, name: TableName) -> Table:
    table = find_all(scene.image()).get(name)
    assert table is not None
    return table


def test_a_kernel_without_tables_has_none() -> None:
    assert len(find_all(TextScene().image())) == 0
    assert len(find_all(TextScene().image()).places(TableName.JUMP_TABLE)) == 0


def test_an_empty_range_is_no_table() -> None:
    scene = TextScene()
    scene.builder.symbol("__start___jump_table", RODATA_VA)
    scene.builder.symbol("__stop___jump_table", RODATA_VA)
    assert find_all(scene.image()).get(TableName.JUMP_TABLE) is None


@pytest.mark.parametrize(
    ("layout", "form", "data"),
    [
        ("8 bytes: s32", WordForm.RELATIVE, relatives(TEXT_VA + 1, TEXT_VA + 2)),
        ("8 bytes: u32", WordForm.ABSOLUTE, word(TEXT_VA + 1) + word(TEXT_VA + 2)),
    ],
)
def test_older_exception_tables_are_told_apart(layout: str, form: WordForm, data: bytes) -> None:
    scene = TextScene()
    scene.table("__ex_table", data)
    table = table_of(scene, TableName.EX_TABLE)
    assert table.layout.startswith(layout)
    assert set(table.words["form"].tolist()) == {form}
    assert table.words["target_va"].tolist() == [TEXT_VA + 1, TEXT_VA + 2]


def test_initcalls_may_be_pointers() -> None:
    scene = TextScene()
    scene.table(".init.data", word(TEXT_VA + 8), "__initcall_start", "__initcall_end")
    table = table_of(scene, TableName.INITCALLS)
    assert table.layout == "4 bytes: u32 function"
    assert table.words["target_va"].tolist() == [TEXT_VA + 8]


def test_jump_labels_may_be_pointers() -> None:
    scene = TextScene()
    code_va = scene.jump(0x10, TEXT_VA + 0x40)
    row = word(code_va) + word(TEXT_VA + 0x40) + word(DATA_VA + 1)
    scene.table("__jump_table", row, "__start___jump_table", "__stop___jump_table")
    assert table_of(scene, TableName.JUMP_TABLE).words["form"].tolist() == [WordForm.ABSOLUTE] * 3


def test_bugs_may_lack_file_and_line() -> None:
    scene = TextScene()
    bug_va = scene.put(0x10, "0f0b")
    scene.table("__bug_table", struct.pack("<IHH", bug_va, 1, 0))
    table = table_of(scene, TableName.BUG_TABLE)
    assert table.layout.startswith("8 bytes")
    assert table.words["target_va"].tolist() == [bug_va]


def test_exports_may_lack_namespaces_and_be_pointers() -> None:
    scene = TextScene()
    scene.builder.section("strings", RODATA_VA, b"first\0")
    scene.table("__ksymtab", word(TEXT_VA + 8) + word(RODATA_VA))
    assert table_of(scene, TableName.KSYMTAB).layout == "8 bytes: u32 value, u32 name"


def test_kallsyms_may_hold_addresses() -> None:
    scene = TextScene()
    blob = word(TEXT_VA) + word(TEXT_VA + 4) + word(2) + b"\x01a\x01b" + word(0)
    parts = ("addresses", 0), ("num_syms", 8), ("names", 12), ("markers", 16)
    for name, at in parts:
        scene.builder.symbol(f"kallsyms_{name}", TABLE_VA + at)
    scene.table(".rodata", blob)
    table = table_of(scene, TableName.KALLSYMS)
    assert table.words["form"].tolist() == [WordForm.ABSOLUTE] * 2
    assert table.words["target_va"].tolist() == [TEXT_VA, TEXT_VA + 4]


def test_exception_table_of_a_kernel_that_sorts_at_boot_may_have_any_order() -> None:
    scene = TextScene()
    data = b"".join(
        relatives(TEXT_VA + at, TEXT_VA, at_va=TABLE_VA + 12 * i) + word(1)
        for i, at in enumerate((0x20, 0x10))
    )
    scene.table("__ex_table", data)
    scene.builder.section("sort_flag", RODATA_VA, word(1))
    scene.builder.symbol("main_extable_sort_needed", RODATA_VA)
    assert len(table_of(scene, TableName.EX_TABLE)) == 2


def test_a_table_that_fits_two_layouts_is_refused() -> None:
    """The word is an address of code, and so is its distance from there."""
    scene = TextScene()
    scene.table(".init.data", word(TEXT_VA), "__initcall_start", "__initcall_end")
    scene.builder.section(".far.text", (TABLE_VA + TEXT_VA) % (1 << 32), bytes(8), TEXT)
    with pytest.raises(MalformedTable, match="fits 4 bytes: s32 function and 4 bytes: u32"):
        find_all(scene.image())


def test_sizes_must_divide() -> None:
    scene = TextScene()
    scene.table("__bug_table", bytes(12) + b"\1")
    with pytest.raises(MalformedTable, match="13 bytes are no multiple of the entry's 12"):
        find_all(scene.image())


def test_boundary_symbols_must_not_contradict_sections() -> None:
    scene = TextScene()
    section = scene.table(".init.data", word(OUTSIDE))
    scene.builder.symbol("__initcall_start", section.end_va - 2)
    scene.builder.symbol("__initcall_end", section.va)
    with pytest.raises(MalformedTable, match="do not enclose bytes"):
        find_all(scene.image())
    scene = TextScene()
    section = scene.table(".init.data", word(OUTSIDE))
    scene.builder.symbol("__initcall_start", section.va)
    scene.builder.symbol("__initcall_end", section.end_va + 64)
    with pytest.raises(MalformedTable, match=r"lies beyond the end of \.init\.data"):
        find_all(scene.image())


def test_places_are_asked_for_by_role() -> None:
    tables = find_all(samples_code.alternatives().image)
    originals = tables.places(TableName.ALTERNATIVES)
    replacements = tables.places(TableName.ALTERNATIVES, Role.REPLACEMENT)
    assert originals["len"].tolist() == [6, 2]
    assert replacements["len"].tolist() == [3, 0]


def test_an_error_names_file_and_address() -> None:
    sample = samples_code.bug_table()
    with pytest.raises(MalformedTable) as refusal:
        find_all(sample.damages[1].of(sample.image))
    assert str(refusal.value).startswith(f"sample: {TABLE_VA + 12:#x}: __bug_table: entry 1 ")


@pytest.mark.parametrize("filling_len", (4, 20, 0x300))
def test_zeros_at_the_end_of_a_section_are_no_entries(filling_len: int) -> None:
    """2.6.27 to 2.6.34 fill the page after the parameters, and a stripped kernel names no end."""
    scene = TextScene()
    scene.builder.section("strings", RODATA_VA, b"first\0")
    function = word(TEXT_VA + 8)
    row = word(RODATA_VA) + struct.pack("<HH", 0o444, 0) + function * 2 + word(DATA_VA)
    scene.table("__param", row + bytes(filling_len))
    table = table_of(scene, TableName.MODULE_PARAMS)
    assert len(table) == 1
    assert table.end_va == TABLE_VA + len(row)


def test_zeros_between_symbols_are_entries() -> None:
    scene = TextScene()
    scene.table(".init.data", word(TEXT_VA + 8) + bytes(4), "__initcall_start", "__initcall_end")
    with pytest.raises(MalformedTable, match="entry 1 has its function address"):
        find_all(scene.image())


def test_section_of_zeros_holds_no_table() -> None:
    scene = TextScene()
    scene.table("__param", bytes(0x40))
    assert find_all(scene.image()).get(TableName.MODULE_PARAMS) is None


@pytest.mark.parametrize(
    ("name", "kind", "binding", "va"),
    [
        ("interrupt", STT_FUNC, STB_GLOBAL, TEXT_VA),
        ("interrupt", STT_FUNC, STB_GLOBAL, RODATA_VA),
        ("interrupt", STT_OBJECT, STB_LOCAL, RODATA_VA),
        ("interrupt", STT_NOTYPE, STB_GLOBAL, TEXT_VA),
        ("sys_call_table", STT_FUNC, STB_GLOBAL, TEXT_VA),
        ("irq_entries_start", STT_OBJECT, STB_GLOBAL, RODATA_VA),
        ("early_idt_handlers", STT_FUNC, STB_LOCAL, TEXT_VA),
    ],
)
def test_what_else_has_the_name_of_a_table_is_none(
    name: str, kind: int, binding: int, va: int
) -> None:
    """A function of code, or among data, a variable of one file, data for code."""
    scene = TextScene()
    scene.builder.section(".rodata", RODATA_VA, bytes(64))
    scene.builder.symbol(name, va, size=8, kind=kind, binding=binding)
    assert len(find_all(scene.image())) == 0


def test_operands_of_an_unknown_kind_are_called_newer() -> None:
    scene = TextScene()
    scene.table("runtime_sum_of_all", word(4))
    with pytest.raises(MalformedTable, match="newer than vmipatch knows"):
        find_all(scene.image())

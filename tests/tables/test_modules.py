# SPDX-License-Identifier: MIT
"""Tables of modules have few entries: is their layout still told by what they point to?"""

from __future__ import annotations

import pytest

from tests.support.elfbuilder import RODATA
from tests.support.smallmodule import Distance, Part, SmallModule
from vmipatch.image.module import Module
from vmipatch.tables.find import find_all
from vmipatch.tables.table import Role, Table, TableName

HANDLER = Distance("ex_handler_default")
LOADS, FIXUPS = ("l0", "l1", "l2"), ("x0", "x1", "x2")


def exceptions(*rows: tuple[Part, ...]) -> Table:
    """The table of a module with these entries, which may name three loads and three fixups."""
    module = SmallModule()
    text = module.section(".text")
    for name in (*LOADS, *FIXUPS):
        text.function(name, "8b00 c3")
    for row in rows:
        module.section("__ex_table", RODATA, align=4).put(*row)
    table = find_all(Module.parse(module.build(), "small").image).get(TableName.EX_TABLE)
    assert table is not None
    return table


@pytest.mark.parametrize("count", (1, 2, 3))
def test_handlers_from_the_kernel_make_three_words_of_an_entry(count: int) -> None:
    """24 bytes are two entries of three words, or three of two."""
    rows = [(Distance(LOADS[i]), Distance(FIXUPS[i]), HANDLER) for i in range(count)]
    table = exceptions(*rows)
    assert table.layout == "12 bytes: s32 insn, s32 fixup, s32 handler"
    assert table.words["role"].tolist() == [Role.INSTRUCTION, Role.FIXUP, Role.FUNCTION] * count


@pytest.mark.parametrize("count", (1, 2, 3))
def test_entries_of_two_words_have_no_handler(count: int) -> None:
    table = exceptions(*((Distance(LOADS[i]), Distance(FIXUPS[i])) for i in range(count)))
    assert table.layout == "8 bytes: s32 insn, s32 fixup"
    assert len(table) == count


@pytest.mark.parametrize("kind", ("03000000", "0e03f2ff", "12f10000"))
@pytest.mark.parametrize("count", (1, 2))
def test_types_with_data_are_no_handlers(kind: str, count: int) -> None:
    """The upper bits hold a register, flags and a number, such as -14."""
    rows = [(Distance(LOADS[i]), Distance(FIXUPS[i]), kind) for i in range(count)]
    table = exceptions(*rows)
    assert table.layout == "12 bytes: s32 insn, s32 fixup, u32 type"
    assert len(table) == count


@pytest.mark.parametrize("addend", range(0, 0x100, 0x10))
def test_handler_is_not_taken_for_a_type_by_its_low_byte(addend: int) -> None:
    """A distance whose low byte happens to be a type's number."""
    handler = Distance("ex_handler_default", addend)
    table = exceptions((Distance("l0"), Distance("x0"), handler))
    assert table.layout == "12 bytes: s32 insn, s32 fixup, s32 handler"

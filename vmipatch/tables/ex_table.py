# SPDX-License-Identifier: MIT
"""__ex_table: where does the kernel go on after a fault at this instruction.

arch/x86/include/asm/extable.h: `struct exception_table_entry { int insn, fixup, data; }`. The
page-fault handler searches it by instruction address. The build sorts it and then clears both
`main_extable_sort_needed` and the relocations; a kernel where that flag is still set sorts at
boot and may store any order.
"""

from __future__ import annotations

import numpy as np

from vmipatch.tables.layout import Draft, Field, Layout, TableKind
from vmipatch.tables.locate import between, first_of, section
from vmipatch.tables.table import Form, Order, Role, TableName

SORT_FLAG = "main_extable_sort_needed"


def _check(draft: Draft) -> None:
    draft.require_code("insn")
    draft.require_code("fixup")
    if _sorts_at_boot(draft):
        return
    insn = draft.target("insn")
    ascending = np.ones(len(insn), dtype=np.bool_)
    ascending[1:] = insn[1:] >= insn[:-1]
    draft.require(ascending, "points below the one before it, and the kernel searches it", insn)


def _sorts_at_boot(draft: Draft) -> bool:
    flag_va = draft.view.image.symbols.address(SORT_FLAG)
    return flag_va is not None and draft.view.image.read(flag_va, 4) != bytes(4)


def _layout(name: str, entry: np.dtype, form: Form) -> Layout:
    fields = (Field("insn", form, Role.INSTRUCTION), Field("fixup", form, Role.FIXUP))
    return Layout(name, entry, fields, _check, order=Order.SORTED)


EX_TABLE = TableKind(
    TableName.EX_TABLE,
    first_of(between("__start___ex_table", "__stop___ex_table"), section("__ex_table")),
    (
        _layout(
            "12 bytes: s32 insn, s32 fixup, u32 type",
            np.dtype([("insn", "<u4"), ("fixup", "<u4"), ("type", "<u4")]),
            Form.RELATIVE,
        ),
        _layout(
            "8 bytes: s32 insn, s32 fixup",
            np.dtype([("insn", "<u4"), ("fixup", "<u4")]),
            Form.RELATIVE,
        ),
        _layout(
            "8 bytes: u32 insn, u32 fixup",
            np.dtype([("insn", "<u4"), ("fixup", "<u4")]),
            Form.ABSOLUTE,
        ),
    ),
)

# SPDX-License-Identifier: MIT
"""__ex_table: where does the kernel go on after a fault at this instruction.

Two absolute words up to 3.4 (include/asm-i386/uaccess.h of 2.6.18, arch/x86/include/asm/uaccess.h
of 2.6.39), two relative ones from 3.5 (uaccess.h of 3.6), then a third word: a handler's address
from 4.6 (arch/x86/include/asm/extable.h of 4.19), a type from 5.16 (the same file of 6.1).

Two kinds of fixup mean more than an address (fixup_exception() in arch/x86/mm/extable.c):

- an absolute one below 16 (2.6.32) is a distance from the instruction, and no address;
- a relative one that lies 0x7ffffff0 too far (3.6 to 4.4, _ASM_EXTABLE_EX) marks a user access.

The page-fault handler searches the table by instruction. Kernels with relative words have it
sorted by the build, which clears `main_extable_sort_needed` and the relocations; those with
absolute words sort it at boot and may store any order. So may a module: its loader sorts it too
(kernel/extable.c). An absolute entry of zeros (CentOS 6) names no instruction.

Instructions and fixups are code of the image itself; a handler (`ex_handler_*`) is code that a
module has from the kernel. That tells entries of two words from those of three where the length of
a short table fits both, and a handler from a type, whose bits may be any.
"""

from __future__ import annotations

import numpy as np

from vmipatch.tables.layout import Column, Draft, TableField, TableKind, TableLayout, sorted_by
from vmipatch.tables.locate import between, first_of, section
from vmipatch.tables.table import U32, Mask, Role, TableName, WordForm

SORT_FLAG = "main_extable_sort_needed"
FIRST_ADDRESS = 16
"""An absolute fixup below this is a distance."""
USER_ACCESS = 0x7FFFFFF0
"""The bias that _ASM_EXTABLE_EX adds to a fixup."""
USER_ACCESS_FROM = USER_ACCESS - 4
"""The least signed difference of the words of such an entry."""
WORD_LEN = 4
LAST_TYPE = 31
"""No kernel has had more fixup types than 32; their numbers are in the low byte."""


def _check(draft: Draft) -> None:
    draft.require_own_code("insn")
    draft.require_own_code("fixup")


def _check_sorted(draft: Draft) -> None:
    _check(draft)
    if not draft.view.is_module and not _sorts_at_boot(draft):
        insn = draft.target("insn")
        why = "points below the one before it, and the kernel searches it"
        draft.require(draft.ascends("insn"), why, insn)


def _check_handlers(draft: Draft) -> None:
    draft.require_code("handler")
    if draft.view.is_module:
        handler = draft.target("handler")
        supplied = ~draft.view.own_code.hold(handler)
        draft.require(supplied, "has a handler of its own", handler)
    _check_sorted(draft)


def _check_types(draft: Draft) -> None:
    _check_sorted(draft)
    kind = draft.entries["type"]
    draft.require((kind & 0xFF) <= LAST_TYPE, "has a type that no kernel knows", kind)
    at = draft.words["fixup"]["va"] + np.uint32(WORD_LEN)
    if draft.view.code.hold((kind + at).astype(np.uint32)).all():
        raise draft.refusal("has the distance to a handler for its type", wrong=1)


def _sorts_at_boot(draft: Draft) -> bool:
    flag_va = draft.view.image.symbols.address(SORT_FLAG)
    return flag_va is not None and draft.view.image.read(flag_va, 4) != bytes(4)


def _is_address(column: Column) -> Mask:
    return np.asarray(column.raw >= FIRST_ADDRESS)


def _is_entry(column: Column) -> Mask:
    return np.asarray((column.raw != 0) | (column.entries["fixup"] != 0))


def _mark(column: Column) -> U32:
    """The bias that the build added to each relative fixup."""
    apart = (column.raw - column.entries["insn"]).astype(np.uint32).view(np.int32)
    return np.where(apart >= USER_ACCESS_FROM, USER_ACCESS, 0).astype(np.uint32)


_INSN, _FIXUP, _HANDLER = (
    TableField("insn", WordForm.RELATIVE, Role.INSTRUCTION),
    TableField("fixup", WordForm.RELATIVE, Role.FIXUP),
    TableField("handler", WordForm.RELATIVE, Role.FUNCTION),
)
_PAIR = [("insn", "<u4"), ("fixup", "<u4")]

EX_TABLE = TableKind(
    TableName.EX_TABLE,
    first_of(between("__start___ex_table", "__stop___ex_table"), section("__ex_table")),
    (
        TableLayout(
            "12 bytes: s32 insn, s32 fixup, u32 type",
            np.dtype([*_PAIR, ("type", "<u4")]),
            (_INSN, _FIXUP),
            _check_types,
            order=sorted_by("insn"),
        ),
        TableLayout(
            "12 bytes: s32 insn, s32 fixup, s32 handler",
            np.dtype([*_PAIR, ("handler", "<u4")]),
            (_INSN, _FIXUP, _HANDLER),
            _check_handlers,
            order=sorted_by("insn"),
        ),
        TableLayout(
            "8 bytes: s32 insn, s32 fixup",
            np.dtype(_PAIR),
            (_INSN, TableField("fixup", WordForm.RELATIVE, Role.FIXUP, bias=_mark)),
            _check_sorted,
            order=sorted_by("insn"),
        ),
        TableLayout(
            "8 bytes: u32 insn, u32 fixup",
            np.dtype(_PAIR),
            (
                TableField("insn", WordForm.ABSOLUTE, Role.INSTRUCTION, present=_is_entry),
                TableField("fixup", WordForm.ABSOLUTE, Role.FIXUP, present=_is_address),
            ),
            _check,
            order=sorted_by("insn"),
        ),
    ),
)

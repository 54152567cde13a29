# SPDX-License-Identifier: MIT
"""__jump_table: which nops and jumps does a static key switch.

`struct jump_entry`: absolute words from 2.6.37 (arch/x86/include/asm/jump_label.h of 2.6.39, 4.19),
relative ones from 4.20 or so (include/linux/jump_label.h of 6.1). Up to 3.6 at least a place is
stored as a jump to the next instruction, which the kernel turns into a nop. The low two bits of
the key hold the branch's default and, at run time, whether the code is init code. The kernel
decodes the length of a place, 2 or 5 bytes, when it patches (arch/x86/kernel/jump_label.c). It
sorts the table at boot.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vmipatch.tables.layout import Draft, TableField, TableKind, TableLayout, flags_in, places
from vmipatch.tables.locate import between, first_of, section
from vmipatch.tables.nops import JMP, JMP_SHORT, NOP2, NOP5, any_of
from vmipatch.tables.table import U32, Role, TableName, WordForm

KEY_FLAGS = 3
INITIAL_NOP = bytes((JMP, 0, 0, 0, 0))
"""How the build of older kernels leaves a place."""
LONG, SHORT = 5, 2


def _check(draft: Draft) -> None:
    draft.require_code("code", SHORT)
    draft.require_code("target")
    draft.require_data("key")
    code = draft.target("code")
    octets = draft.view.bytes_at(code, LONG)
    is_long, is_short = octets[:, 0] == JMP, octets[:, 0] == JMP_SHORT
    is_long &= ~any_of(octets, (INITIAL_NOP,))
    is_nop = any_of(octets, (*NOP5, *NOP2, INITIAL_NOP))
    known = is_long | is_short | is_nop
    draft.require(known, "is neither a jump nor a nop of 2 or 5 bytes", code)
    inside = draft.view.code.hold(code, _length(octets))
    draft.require(inside, "runs out of its section", code)
    leads_there = _destination(code, octets) == draft.target("target")
    draft.require(leads_there | ~(is_long | is_short), "jumps to another place", code)


def _length(octets: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """How many bytes the kernel patches at a place that begins with `octets`."""
    is_long = (octets[:, 0] == JMP) | any_of(octets, NOP5)
    return np.where(is_long, LONG, SHORT)


def _destination(code: U32, octets: npt.NDArray[np.uint8]) -> U32:
    """Where a long or short jump at each place leads."""
    near = np.ascontiguousarray(octets[:, 1:LONG]).view("<u4").reshape(-1)
    short = octets[:, 1].astype(np.int8).astype(np.int32).view(np.uint32)
    is_long = octets[:, 0] == JMP
    return code + np.where(is_long, near, short) + np.where(is_long, LONG, SHORT).astype(np.uint32)


def _places(draft: Draft) -> np.ndarray:
    code = draft.target("code")
    return places(code, _length(draft.view.bytes_at(code, LONG)))


def _layout(name: str, form: WordForm) -> TableLayout:
    return TableLayout(
        name,
        np.dtype([("code", "<u4"), ("target", "<u4"), ("key", "<u4")]),
        (
            TableField("code", form, Role.INSTRUCTION),
            TableField("target", form, Role.TARGET),
            TableField("key", form, Role.DATA, bias=flags_in(KEY_FLAGS)),
        ),
        _check,
        _places,
    )


JUMP_TABLE = TableKind(
    TableName.JUMP_TABLE,
    first_of(between("__start___jump_table", "__stop___jump_table"), section("__jump_table")),
    (
        _layout("12 bytes: s32 code, s32 target, s32 key", WordForm.RELATIVE),
        _layout("12 bytes: u32 code, u32 target, u32 key", WordForm.ABSOLUTE),
    ),
)

# SPDX-License-Identifier: MIT
""".static_call.text: where are the trampolines that the kernel points at other functions.

arch/x86/include/asm/static_call.h: `jmp rel32` or, without a function, `ret` and filling, then
a signature. The kernel checks signature and length before it writes: a missing byte is a BUG
at boot. The table lies in .text and moves with it; what it holds is code.
"""

from __future__ import annotations

import numpy as np

from vmipatch.tables.layout import Draft, Field, Layout, TableKind, places
from vmipatch.tables.locate import between, first_of, section
from vmipatch.tables.nops import INT3, JMP, RET, any_of
from vmipatch.tables.table import U32, Form, Mask, Role, TableName

TRAMPOLINE_LEN = 8
UD1 = bytes.fromhex("0fb9cc")
SCT = b"SCT"
"""The signature before 5.18."""
NOP = 0x90


def _is_jump(entries: np.ndarray, raw: U32) -> Mask:
    return np.asarray(entries["opcode"] == JMP)


def _check(draft: Draft) -> None:
    opcode, filling = draft.entries["opcode"], draft.target("target")
    jumps = opcode == JMP
    signed = any_of(draft.entries["signature"], (UD1, SCT))
    draft.require(signed, "lacks its signature")
    draft.require(jumps | (opcode == RET), "begins with neither jmp nor ret")
    draft.require_code("target", present=jumps)
    raw = np.ascontiguousarray(draft.entries["target"]).view(np.uint8).reshape(-1, 4)
    filled = ((raw == INT3) | (raw == NOP)).all(axis=1)
    draft.require(jumps | filled, "has other code behind its ret", filling)


def _places(draft: Draft) -> np.ndarray:
    start_va = draft.start_va + TRAMPOLINE_LEN * np.arange(len(draft))
    return places(start_va.astype(np.uint32), TRAMPOLINE_LEN)


STATIC_CALLS = TableKind(
    TableName.STATIC_CALLS,
    first_of(
        between("__static_call_text_start", "__static_call_text_end"),
        section(".static_call.text"),
    ),
    (
        Layout(
            "8 bytes: jmp rel32 or ret, 3 bytes of signature",
            np.dtype([("opcode", "u1"), ("target", "<u4"), ("signature", "u1", (3,))]),
            (Field("target", Form.BRANCH, Role.TARGET, present=_is_jump),),
            _check,
            _places,
        ),
    ),
)

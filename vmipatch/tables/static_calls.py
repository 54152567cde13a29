# SPDX-License-Identifier: MIT
""".static_call.text: where are the trampolines that the kernel points at other functions.

arch/x86/include/asm/static_call.h: `jmp rel32` or, without a function, `ret` and filling, then
a signature: three letters from 5.15 on, a ud1 from 5.18 on. Up to 5.14 there is not one, the next
trampoline is aligned to 4 bytes, and the last one ends with its instruction. Between trampolines of
one object the assembler fills with nops; after the last of an object it is the linker, with what
the linker script says for .text (0xcccc, arch/x86/kernel/vmlinux.lds.S of 5.10; ld.lld makes a
number of four bytes of it, high byte first), in a module with nops of its own. The kernel checks
signature and length before it writes: a missing byte is a BUG at boot. The table lies in .text and
moves with it; what it holds is code.
"""

from __future__ import annotations

import numpy as np

from vmipatch.tables.layout import Column, Draft, TableField, TableKind, TableLayout, places
from vmipatch.tables.locate import between, first_of, section
from vmipatch.tables.nops import INT3, JMP, RET, any_of
from vmipatch.tables.table import Mask, Role, TableName, WordForm

TRAMPOLINE_LEN = 8
UD1 = bytes.fromhex("0fb9cc")
SCT = b"SCT"
FILLED_BY_LINKERS = tuple(bytes.fromhex(text) for text in ("cccccc", "0000cc", "669090"))
NOP3 = (bytes.fromhex("8d7600"), bytes.fromhex("0f1f00"), bytes.fromhex("666690"))
SIGNATURE_LEN = 3
NOP = 0x90


def _is_jump(column: Column) -> Mask:
    return np.asarray(column.entries["opcode"] == JMP)


def _check(draft: Draft) -> None:
    signed = any_of(draft.entries["signature"], (UD1, SCT))
    draft.require(signed, "lacks its signature")
    _check_code(draft)


def _check_unsigned(draft: Draft) -> None:
    aligned = any_of(draft.entries["signature"], (*FILLED_BY_LINKERS, b"\x90" * 3, *NOP3, bytes(3)))
    draft.require(aligned, "has other bytes than filling after it")
    _check_code(draft)


def _check_code(draft: Draft) -> None:
    opcode, filling = draft.entries["opcode"], draft.target("target")
    jumps = opcode == JMP
    draft.require(jumps | (opcode == RET), "begins with neither jmp nor ret")
    draft.require_code("target")
    raw = np.ascontiguousarray(draft.entries["target"]).view(np.uint8).reshape(-1, 4)
    filled = ((raw == INT3) | (raw == NOP)).all(axis=1)
    draft.require(jumps | filled, "has other code after its ret", filling)


def _places(draft: Draft) -> np.ndarray:
    return _entries(draft, TRAMPOLINE_LEN)


def _unsigned_places(draft: Draft) -> np.ndarray:
    return _entries(draft, TRAMPOLINE_LEN - SIGNATURE_LEN)


def _entries(draft: Draft, length: int) -> np.ndarray:
    start_va = draft.start_va + TRAMPOLINE_LEN * np.arange(len(draft), dtype=np.int64)
    return places(start_va.astype(np.uint32), length)


_ENTRY = np.dtype([("opcode", "u1"), ("target", "<u4"), ("signature", "u1", (SIGNATURE_LEN,))])
_TARGET = TableField("target", WordForm.BRANCH, Role.TARGET, present=_is_jump)


STATIC_CALLS = TableKind(
    TableName.STATIC_CALLS,
    first_of(
        between("__static_call_text_start", "__static_call_text_end"),
        section(".static_call.text"),
    ),
    (
        TableLayout(
            "8 bytes: jmp rel32 or ret, 3 bytes of signature", _ENTRY, (_TARGET,), _check, _places
        ),
        TableLayout(
            "8 bytes: jmp rel32 or ret, 3 bytes of filling, none at the end",
            _ENTRY,
            (_TARGET,),
            _check_unsigned,
            _unsigned_places,
            lacks_len=SIGNATURE_LEN,
        ),
    ),
)

# SPDX-License-Identifier: MIT
"""irq_entries_start and kin: which code is indexed by vector, and so keeps its stride.

arch/x86/include/asm/idtentry.h and arch/x86/kernel/head_32.S: each stub pushes its vector (an
early one may push a zero error code first), jumps on, and is filled with int3. The kernel computes
the address of a stub from its number. Stubs are code: their branches are fixed as code is.
"""

from __future__ import annotations

import numpy as np

from vmipatch.tables.layout import Draft, Layout, TableKind, places
from vmipatch.tables.locate import symbol
from vmipatch.tables.nops import INT3, JMP, JMP_SHORT
from vmipatch.tables.table import U32, TableName

PUSH_BYTE = 0x6A
VECTORS = 256
VECTOR_STRIDE = 8
EARLY_STRIDE = 9


def _check(draft: Draft) -> None:
    stubs = [
        _decode(int(va), stub.tobytes())
        for va, stub in zip(_start_va(draft), draft.entries["code"], strict=True)
    ]
    understood = np.array([stub is not None for stub in stubs])
    draft.require(understood, "is not a push of a vector, a jump and int3")
    vector, target = np.array([stub for stub in stubs if stub is not None], np.uint32).T
    counted = (vector[0] + np.arange(len(stubs))) % VECTORS
    draft.require(vector == counted, "pushes a vector out of sequence", vector)
    draft.require(draft.view.code.hold(target), "jumps out of the code", target)


def _decode(va: int, code: bytes) -> tuple[int, int] | None:
    """The vector a stub pushes and the address it jumps to; None if it is no stub."""
    pushes = 2 if code[:3] == bytes((PUSH_BYTE, 0, PUSH_BYTE)) else 1
    at = 2 * pushes
    if code[at - 2] != PUSH_BYTE:
        return None
    jump_len = {JMP: 5, JMP_SHORT: 2}.get(code[at])
    if jump_len is None or code[at + jump_len :].strip(bytes((INT3,))):
        return None
    displacement = int.from_bytes(code[at + 1 : at + jump_len], "little", signed=True)
    return code[at - 1], (va + at + jump_len + displacement) & 0xFFFFFFFF


def _start_va(draft: Draft) -> U32:
    stride = draft.entries.dtype.itemsize
    return (draft.start_va + stride * np.arange(len(draft))).astype(np.uint32)


def _places(draft: Draft) -> np.ndarray:
    return places(_start_va(draft), draft.entries.dtype.itemsize)


def _layout(stride: int) -> Layout:
    entry = np.dtype([("code", "u1", (stride,))])
    return Layout(f"{stride} bytes: push, jmp, int3", entry, (), _check, _places)


IRQ_STUBS = TableKind(TableName.IRQ_STUBS, symbol("irq_entries_start"), (_layout(VECTOR_STRIDE),))
SPURIOUS_STUBS = TableKind(
    TableName.SPURIOUS_STUBS, symbol("spurious_entries_start"), (_layout(VECTOR_STRIDE),)
)
EARLY_STUBS = TableKind(
    TableName.EARLY_STUBS, symbol("early_idt_handler_array"), (_layout(EARLY_STRIDE),)
)

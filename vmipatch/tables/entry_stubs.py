# SPDX-License-Identifier: MIT
"""irq_entries_start and kin: which code is indexed by vector, and so keeps its stride.

Each stub pushes its vector, or a number that counts down with it, and jumps on; an early one may
push a zero error code first, or hold a nop of the same length. The rest is filling. The kernel
computes the address of a stub from its number:

- 8 bytes each, arch/x86/entry/entry_32.S of 4.4 and 4.19, arch/x86/include/asm/idtentry.h of 6.1;
- early ones 9 bytes each, arch/x86/kernel/head_32.S of 3.6 (early_idt_handlers) to 6.1;
- from 2.6.28 to 3.19 or so seven in 32 bytes with one common jump after them
  (arch/x86/kernel/entry_32.S of 2.6.32), found through the array `interrupt`;
- before, of any length (arch/i386/kernel/entry.S of 2.6.20 to 2.6.24): the array names them all.

Stubs are code: their branches are fixed as code is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from vmipatch.tables.layout import Draft, TableField, TableKind, TableLayout, places
from vmipatch.tables.locate import array, first_of, stubs
from vmipatch.tables.nops import INT3, JMP, JMP_SHORT, NOP2
from vmipatch.tables.table import U32, Role, TableName, WordForm

PUSH_BYTE, PUSH_WORD = 0x6A, 0x68
PUSH_LEN = {PUSH_BYTE: 2, PUSH_WORD: 5}
NAMES = "interrupt"
"""The array of their addresses, up to 3.19 or so."""
VECTORS = 256
VECTOR_STRIDE, EARLY_STRIDE = 8, 9
PACK_STRIDE, PACK = 32, 7
JUMP_LEN = {JMP: 5, JMP_SHORT: 2}
NOPS = (bytes.fromhex("8d742600"), bytes.fromhex("8d7600"), *NOP2)
"""The instructions that the assembler aligns with where a byte 90 is not enough."""


def _check(draft: Draft) -> None:
    stubs = [
        _decode(int(va), stub.tobytes())
        for va, stub in zip(_start_va(draft), draft.entries["code"], strict=True)
    ]
    understood = np.array([stub is not None for stub in stubs])
    draft.require(understood, "is not a push of a vector, a jump and filling")
    vector, target = np.array([stub for stub in stubs if stub is not None], np.uint32).T
    _check_sequence(draft, vector)
    draft.require(draft.view.code.hold(target), "jumps out of the code", target)


def _check_sequence(draft: Draft, vector: U32) -> None:
    """Vectors count up, as they are, or down, as their complements."""
    step = np.arange(len(vector)).astype(np.uint32)
    up, down = (vector == (vector[0] + s) % VECTORS for s in (step, -step))
    counted = up if up.sum() >= down.sum() else down
    draft.require(counted, "pushes a vector out of sequence", vector)


def _decode(va: int, code: bytes) -> tuple[int, int] | None:
    """The vector a stub pushes and the address it jumps to; None if it is not a stub."""
    prefixed = code[:2] in (bytes((PUSH_BYTE, 0)), *NOP2) and code[2] == PUSH_BYTE
    at = 4 if prefixed else 2
    if code[at - 2] != PUSH_BYTE:
        return None
    jump_len = JUMP_LEN.get(code[at])
    if jump_len is None or not _is_filling(code[at + jump_len :]):
        return None
    displacement = int.from_bytes(code[at + 1 : at + jump_len], "little", signed=True)
    return code[at - 1], (va + at + jump_len + displacement) & 0xFFFFFFFF


def _is_filling(code: bytes) -> bool:
    """Whether nothing but int3, or nothing but the assembler's nops, is left."""
    if not code.strip(bytes((INT3,))):
        return True
    return not code.strip(b"\x90") or code in NOPS


@dataclass(frozen=True, slots=True)
class _Pack:
    """Stubs that share a jump: what each pushes, how long they are, where they go on."""

    numbers: list[int] = field(hash=False)
    length: int
    target_va: int


def _read_packs(draft: Draft) -> list[_Pack | None]:
    codes = draft.entries["code"]
    return [
        _decode_pack(int(va), pack.tobytes())
        for va, pack in zip(_start_va(draft), codes, strict=True)
    ]


def _decode_pack(va: int, code: bytes) -> _Pack | None:
    """A push for each stub, short jumps but after the last of a full pack, and the jump."""
    numbers: list[int] = []
    led_to = set()
    at = 0
    while len(numbers) < PACK and code[at] == PUSH_BYTE:
        numbers.append(code[at + 1])
        at += 2
        if len(numbers) < PACK:
            led_to.add(at + 2 + int.from_bytes(code[at + 1 : at + 2], "little", signed=True))
            if code[at] != JMP_SHORT:
                return None
            at += 2
    jump_len = JUMP_LEN.get(code[at])
    if not numbers or jump_len is None or led_to - {at}:
        return None
    displacement = int.from_bytes(code[at + 1 : at + jump_len], "little", signed=True)
    length = at + jump_len
    return _Pack(numbers, length, (va + length + displacement) & 0xFFFFFFFF)


def _check_packs(draft: Draft) -> None:
    read = _read_packs(draft)
    draft.require(
        np.array([p is not None for p in read]), "is not a row of pushes that share a jump"
    )
    packs = [pack for pack in read if pack is not None]
    full = [len(pack.numbers) == PACK for pack in packs[:-1]]
    draft.require(np.array([*full, True]), "has fewer stubs than the others")
    first = packs[0].numbers[0]
    counted = [
        pack.numbers == [(first - PACK * i - k) % VECTORS for k in range(len(pack.numbers))]
        for i, pack in enumerate(packs)
    ]
    draft.require(np.array(counted), "pushes a vector out of sequence")
    target = np.array([pack.target_va for pack in packs], np.uint32)
    draft.require(draft.view.code.hold(target), "jumps out of the code", target)


def _pack_places(draft: Draft) -> np.ndarray:
    lengths = [0 if pack is None else pack.length for pack in _read_packs(draft)]
    return places(_start_va(draft), np.array(lengths))


def _named_stubs(draft: Draft) -> list[tuple[int, bytes]]:
    """Address and bytes of each stub that the array `interrupt` names."""
    image, code = draft.view.image, draft.entries["code"].tobytes()
    extent = array(NAMES)(image)
    if extent is None:
        return []
    named = np.frombuffer(image.read(extent.start_va, extent.end_va - extent.start_va), "<u4")
    offs = [va - draft.start_va for va in named.tolist()]
    if offs[:1] != [0] or any(low >= high for low, high in pairwise([*offs, len(code)])):
        return []
    return [(draft.start_va + at, code[at:end]) for at, end in pairwise([*offs, len(code)])]


def _check_named(draft: Draft) -> None:
    stubs = _named_stubs(draft)
    targets = {_goes_on_at(va, code) for va, code in stubs}
    if len(targets) != 1 or None in targets:
        raise draft.refusal(f"the array {NAMES} does not name stubs with one aim", wrong=1)


def _goes_on_at(va: int, code: bytes) -> int | None:
    """Where a stub of any length jumps to; None if it is not a stub."""
    at = PUSH_LEN.get(code[0], 0)
    jump_len = JUMP_LEN.get(code[at]) if 0 < at < len(code) else None
    if jump_len is None or not _is_filling(code[at + jump_len :]):
        return None
    displacement = int.from_bytes(code[at + 1 : at + jump_len], "little", signed=True)
    return va + at + jump_len + displacement


def _named_places(draft: Draft) -> np.ndarray:
    vas, codes = zip(*_named_stubs(draft), strict=True)
    return places(np.array(vas, np.uint32), np.array([len(code) for code in codes]))


def _start_va(draft: Draft) -> U32:
    stride = draft.entries.dtype.itemsize
    return (draft.start_va + stride * np.arange(len(draft), dtype=np.int64)).astype(np.uint32)


def _places(draft: Draft) -> np.ndarray:
    return places(_start_va(draft), draft.entries.dtype.itemsize)


def _check_pointers(draft: Draft) -> None:
    draft.require_code("stub")
    stub = draft.target("stub")
    rising = np.ones(len(stub), dtype=np.bool_)
    rising[1:] = stub[1:] > stub[:-1]
    draft.require(rising, "does not target code after the stub before it", stub)


def _layout(stride: int) -> TableLayout:
    entry = np.dtype([("code", "u1", (stride,))])
    return TableLayout(f"{stride} bytes: push, jmp, filling", entry, (), _check, _places)


_VECTORS = _layout(VECTOR_STRIDE)
_PACKS = TableLayout(
    f"{PACK_STRIDE} bytes: {PACK} stubs that share a jump",
    np.dtype([("code", "u1", (PACK_STRIDE,))]),
    (),
    _check_packs,
    _pack_places,
    lacks_len=PACK_STRIDE - 1,
)

_NAMED = TableLayout(
    "1 byte: stubs of any length with one aim, named by an array",
    np.dtype([("code", "u1", (1,))]),
    (),
    _check_named,
    _named_places,
)

IRQ_STUBS = TableKind(TableName.IRQ_STUBS, stubs("irq_entries_start"), (_VECTORS, _PACKS, _NAMED))
SPURIOUS_STUBS = TableKind(TableName.SPURIOUS_STUBS, stubs("spurious_entries_start"), (_VECTORS,))
EARLY_STUBS = TableKind(
    TableName.EARLY_STUBS,
    first_of(stubs("early_idt_handler_array"), stubs("early_idt_handlers")),
    (_layout(EARLY_STRIDE),),
)
INTERRUPTS = TableKind(
    TableName.INTERRUPTS,
    array(NAMES),
    (
        TableLayout(
            "4 bytes: u32 stub",
            np.dtype([("stub", "<u4")]),
            (TableField("stub", WordForm.ABSOLUTE, Role.FUNCTION),),
            _check_pointers,
        ),
    ),
)

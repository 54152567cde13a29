# SPDX-License-Identifier: MIT
"""Do distances keep that the assembler folded, where code computes addresses from its own?

`call 1f; 1: pop ebx; lea eax, [ebx + table - 1b]`: a constant next to the popped register, without
a relocation, that names code of the same section. It is read here with a table of which opcodes
have a ModRM byte (Intel SDM volume 2, appendix A), and no decoder of operands.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vmipatch.image.symbols import STT_FUNC
from vmipatch.isa.classify import split_prefixes
from vmipatch.isa.second import Leaves
from vmipatch.verify.static.comparison import Comparison, judges
from vmipatch.verify.static.copied import copied_code
from vmipatch.verify.static.rules import FOLDED
from vmipatch.verify.static.side import Side

WITH_MODRM = frozenset(
    {op for op in range(0x40) if op & 7 < 4} | {0x62, 0x63, 0x69, 0x6B} | set(range(0x80, 0x90))
    | {0xC0, 0xC1, 0xC4, 0xC5, 0xC6, 0xC7} | set(range(0xD0, 0xD4)) | set(range(0xD8, 0xE0))
    | {0xF6, 0xF7, 0xFE, 0xFF}
)  # fmt: skip
"""Opcodes of one byte that have a ModRM byte."""
TWO_WITHOUT = frozenset(
    {0x05, 0x06, 0x07, 0x08, 0x09, 0x0B, 0x0E, 0x77, 0xA0, 0xA1, 0xA2, 0xA8, 0xA9, 0xAA}
    | set(range(0x30, 0x38)) | set(range(0x80, 0x90)) | set(range(0xC8, 0xD0))
)  # fmt: skip
"""Second bytes after 0f of opcodes that have none."""
ESCAPE, ESP, NO_BASE = 0x0F, 4, 5
ADD, SUB = 0, 5
"""The ModRM.reg of 81 and 83."""
READERS = {bytes((0x8B, 4 | n << 3, 0x24, 0xC3)): n for n in range(8) if n != ESP}
"""mov r, [esp]; ret."""
MASK = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Folded:
    """A label whose address is read at run time, and an address computed from it."""

    label_va: int
    named_va: int


@judges(FOLDED)
def check_own_addresses(comparison: Comparison) -> None:
    """Each such address is as far from the label as it was."""
    copied = copied_code(comparison)
    found = [
        one
        for one in folded(comparison)
        if not any(start <= one.label_va < end for start, end in copied)
    ]
    comparison.report.counts["folded distances"] += len(found)
    for one in found:
        label, named = (_image(comparison, va) for va in (one.label_va, one.named_va))
        if label is None or named is None or named - label != one.named_va - one.label_va:
            distance = one.named_va - one.label_va
            message = f"{one.named_va:#x} was {distance:+#x} from {one.label_va:#x}, and is not"
            comparison.report.add(FOLDED, label or 0, message)


def _image(comparison: Comparison, va: int) -> int | None:
    """Where a byte of the original's code is in the output."""
    left = comparison.left
    over = int(left.over(np.array([va], np.int64))[0])
    if over < 0:
        return None
    start_va = int(left.starts[over])
    new = int(comparison.images.itself(np.array([start_va], np.int64))[0])
    return None if new < 0 else new + va - start_va


def folded(comparison: Comparison) -> Iterator[Folded]:
    """All of them in the original."""
    left = comparison.left
    words = set(comparison.places.tolist())
    entries = comparison.original.symbols.entries
    functions = np.unique(entries["value"][entries["info"] & 15 == STT_FUNC].astype(np.int64))
    for index, register in _calls(left):
        label_va = left.end_va(index)
        section = left.section_of(label_va - 1)
        if section is None:
            continue
        at = int(np.searchsorted(functions, label_va, side="right"))
        end_va = min(int(functions[at]) if at < len(functions) else section.end_va, section.end_va)
        for named in _named(left, index + 1, end_va, register, words):
            if named in section:
                yield Folded(label_va, named)


def _calls(side: Side) -> Iterator[tuple[int, int]]:
    """Calls that put their return address into a register: index and register."""
    calls = np.flatnonzero(side.leaves == Leaves.CALL)
    targets = side.targets(calls)
    here = targets == side.ends[calls]
    for index in calls[here].tolist():
        after = side.code(index + 1) if index + 1 < len(side) else b""
        if len(after) == 1 and 0x58 <= after[0] < 0x60:
            yield index, after[0] & 7
    goals = side.find(targets)
    usable = np.flatnonzero((goals >= 0) & ~here & (side.lens[np.maximum(goals, 0)] == 3))
    for position in usable.tolist():
        goal = int(goals[position])
        if goal + 1 < len(side):
            register = READERS.get(side.code(goal) + side.code(goal + 1))
            if register is not None:
                yield int(calls[position]), register


def _named(side: Side, first: int, end_va: int, register: int, words: set[int]) -> Iterator[int]:
    """Addresses that constants next to `register` name, from instruction `first` on."""
    base = int(side.starts[first])
    index = first
    while index < len(side) and int(side.starts[index]) < end_va:
        va, code = int(side.starts[index]), side.code(index)
        prefixes, rest = split_prefixes(code)
        at = va + len(prefixes)
        summand = _summand(rest, register)
        if summand is not None:
            value, word_at = summand
            if at + word_at in words:
                return
            base = (base + value) & MASK
            yield base
        else:
            operand = _displacement(rest, register)
            if operand is not None and at + operand[1] not in words:
                yield (base + operand[0]) & MASK
            if index > first and _overwrites(rest, register):
                return
        index += 1


def _summand(rest: bytes, register: int) -> tuple[int, int] | None:
    """The constant that `add` or `sub` adds to the register, and where it stands."""
    if not register and rest[:1] in (b"\x05", b"\x2d") and len(rest) == 5:
        value = int.from_bytes(rest[1:], "little", signed=True)
        return (value if rest[0] == 5 else -value), 1
    if rest[:1] not in (b"\x81", b"\x83") or rest[1] >> 6 != 3 or rest[1] & 7 != register:
        return None
    kind, value = rest[1] >> 3 & 7, int.from_bytes(rest[2:], "little", signed=True)
    return ((value if kind == ADD else -value), 2) if kind in (ADD, SUB) else None


def _displacement(rest: bytes, register: int) -> tuple[int, int] | None:
    """The displacement of a memory operand with this base, and where it stands; None without."""
    opcode_len = 2 if rest[:1] == bytes((ESCAPE,)) else 1
    has = rest[1] not in TWO_WITHOUT if opcode_len == 2 else rest[0] in WITH_MODRM
    if not has or len(rest) <= opcode_len:
        return None
    modrm = rest[opcode_len]
    mod, base, at = modrm >> 6, modrm & 7, opcode_len + 1
    if mod == 3:
        return None
    if base == ESP:
        if len(rest) <= at:
            return None
        base, at = rest[at] & 7, at + 1
    width = (0, 1, 4)[mod]
    if base != register or not width:
        return None
    return int.from_bytes(rest[at : at + width], "little", signed=True), at


def _overwrites(rest: bytes, register: int) -> bool:
    """Whether mov, pop, xor or lea give the register another value."""
    opcode = rest[0]
    if opcode in (0x58 | register, 0xB8 | register):
        return True
    if opcode in (0x8B, 0x8D, 0x33):
        return rest[1] >> 3 & 7 == register
    return opcode in (0x89, 0x31, 0xC7) and rest[1] >> 6 == 3 and rest[1] & 7 == register

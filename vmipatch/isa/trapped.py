# SPDX-License-Identifier: MIT
"""What does the instruction say at which the CPU stopped? Its form and its operands.

A hypervisor asks this for a few thousand places, hundreds of thousands of times: answers are kept
by the bytes themselves, so that code that changes under its address is simply another question.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import iced_x86

from vmipatch.isa.classify import OPERAND_SIZE, classify, split_prefixes
from vmipatch.isa.forms import Form, WantedModrm

MAX_LEN = 15
"""Bytes of the longest instruction."""

_REGISTERS = iced_x86.Register
_INFO = iced_x86.RegisterExt


@dataclass(frozen=True, slots=True)
class MemoryPlace:
    """A memory operand: segment and offset, as numbers of registers."""

    segment: int
    """Encoding of the segment register (ES 0, CS 1, SS 2, DS 3, FS 4, GS 5)."""
    base: int | None
    index: int | None
    scale: int
    displacement: int
    mask: int
    """The bits that the address is cut to: 16 or 32."""

    def offset(self, gpr: Callable[[int], int]) -> int:
        """The offset in the segment; `gpr` gives the value of a general register."""
        value = self.displacement
        if self.base is not None:
            value += gpr(self.base)
        if self.index is not None:
            value += gpr(self.index) * self.scale
        return value & self.mask


@dataclass(frozen=True, slots=True)
class TrappedInstruction:
    """A sensitive instruction, taken apart."""

    form: Form
    code: bytes
    """Exactly its bytes, prefixes included."""
    operand_len: int
    """2 after an operand-size prefix, else 4."""
    reg: int
    """ModRM.reg, 0 if there is no ModRM."""
    rm: int
    """The general register that ModRM names where there is no memory operand."""
    memory: MemoryPlace | None
    tail: bytes
    """The bytes after the opcode: ModRM and immediates."""

    @property
    def length(self) -> int:
        """Bytes from the first prefix to the last immediate."""
        return len(self.code)


@lru_cache(maxsize=1 << 14)
def take_apart(window: bytes) -> TrappedInstruction | None:
    """The sensitive instruction at the beginning of `window` (up to MAX_LEN bytes).

    None if it is another instruction, none at all, or longer than the window.
    """
    instruction = iced_x86.Decoder(32, window).decode()
    if instruction.is_invalid:
        return None
    code = window[: instruction.len]
    form = classify(code)
    if form is None:
        return None
    prefixes, rest = split_prefixes(code)
    tail = rest[len(form.opcode) :]
    modrm = tail[0] if tail and form.operand is not WantedModrm.NONE else 0
    return TrappedInstruction(
        form=form,
        code=code,
        operand_len=2 if OPERAND_SIZE in prefixes else 4,
        reg=modrm >> 3 & 7,
        rm=modrm & 7,
        memory=_memory(instruction) if _has_memory(instruction) else None,
        tail=tail,
    )


def _has_memory(instruction: iced_x86.Instruction) -> bool:
    kinds = (instruction.op_kind(i) for i in range(instruction.op_count))
    return any(kind == iced_x86.OpKind.MEMORY for kind in kinds)


def _memory(instruction: iced_x86.Instruction) -> MemoryPlace:
    base, index = instruction.memory_base, instruction.memory_index
    narrow = instruction.memory_displ_size == 2 or any(
        register != _REGISTERS.NONE and _INFO.size(register) == 2 for register in (base, index)
    )
    return MemoryPlace(
        segment=_INFO.number(instruction.memory_segment),
        base=_number(base),
        index=_number(index),
        scale=instruction.memory_index_scale,
        displacement=instruction.memory_displacement & 0xFFFFFFFF,
        mask=0xFFFF if narrow else 0xFFFFFFFF,
    )


def _number(register: iced_x86.Register_) -> int | None:
    return None if register == _REGISTERS.NONE else _INFO.number(register)

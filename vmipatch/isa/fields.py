# SPDX-License-Identifier: MIT
"""Where in code stand constants of 32 bits, and what is each for?

An address, a difference of addresses or a length can hide in no other place of an instruction.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

import iced_x86

_WIDE = 4
_CONTROL = iced_x86.FlowControl
_ADDING = (iced_x86.Mnemonic.MOV, iced_x86.Mnemonic.ADD, iced_x86.Mnemonic.SUB)
_BRANCHES = (_CONTROL.CALL, _CONTROL.UNCONDITIONAL_BRANCH, _CONTROL.CONDITIONAL_BRANCH)


class FieldKind(enum.Enum):
    """The processor's use of a constant."""

    DISPLACEMENT = "displacement"
    IMMEDIATE = "immediate"
    BRANCH = "branch"


@dataclass(frozen=True, slots=True)
class InstructionField:
    """Four bytes of an instruction."""

    va: int
    instruction_va: int
    kind: FieldKind
    value: int
    """Signed; of a branch, the target."""
    may_point: bool = True
    """Whether position-independent code could make an address of it: a displacement from a
    register, an immediate that is moved, added or subtracted."""
    scale: int = 1
    """By how much an index register is multiplied that is added to a displacement."""
    is_subtracted: bool = False
    """Whether it is an immediate that is subtracted."""


def wide_fields(code: bytes, va: int) -> Iterator[InstructionField]:
    """Every field of 32 bits in `code`, linked at `va`; ends at the first byte that is not code."""
    decoder = iced_x86.Decoder(32, code, ip=va)
    for instruction in decoder:
        if not instruction.code:
            return
        yield from _fields_of(instruction, decoder, code, va)


def wide_fields_among_data(code: bytes, va: int) -> Iterator[InstructionField]:
    """The same for code with data in it: goes on one byte after each that is not code."""
    decoder = iced_x86.Decoder(32, code, ip=va)
    while decoder.can_decode:
        off = decoder.position
        instruction = decoder.decode()
        if instruction.code:
            yield from _fields_of(instruction, decoder, code, va)
        else:
            decoder.position, decoder.ip = off + 1, va + off + 1


def _fields_of(
    instruction: iced_x86.Instruction, decoder: iced_x86.Decoder, code: bytes, va: int
) -> Iterator[InstructionField]:
    offsets = decoder.get_constant_offsets(instruction)
    start = instruction.ip32
    if offsets.has_displacement and offsets.displacement_size == _WIDE:
        yield InstructionField(
            start + offsets.displacement_offset,
            start,
            FieldKind.DISPLACEMENT,
            _signed(instruction.memory_displacement),
            _has_register(instruction),
            instruction.memory_index_scale,
        )
    if offsets.has_immediate and offsets.immediate_size == _WIDE:
        at = start + offsets.immediate_offset
        if instruction.flow_control in _BRANCHES:
            yield InstructionField(at, start, FieldKind.BRANCH, instruction.near_branch_target)
        else:
            at_off = at - va
            value = int.from_bytes(code[at_off : at_off + _WIDE], "little", signed=True)
            adds = instruction.mnemonic in _ADDING
            subtracts = instruction.mnemonic == iced_x86.Mnemonic.SUB
            yield InstructionField(
                at, start, FieldKind.IMMEDIATE, value, adds, is_subtracted=subtracts
            )


def _has_register(instruction: iced_x86.Instruction) -> bool:
    none = iced_x86.Register.NONE
    return bool(instruction.memory_base != none or instruction.memory_index != none)


def _signed(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value

# SPDX-License-Identifier: MIT
"""What the operand of a site is, in the words of the assembler."""

from __future__ import annotations

from dataclasses import dataclass

import iced_x86


@dataclass(frozen=True, slots=True)
class MemoryOperand:
    """A memory operand, for use where the stack lies deeper than at the site."""

    text: str
    """`[base + index*scale + displacement]`, with a segment prefix if there was one."""
    is_absolute: bool
    """Neither base nor index: the displacement is an address."""
    displacement: int
    word_va: int | None
    """Where the site holds the displacement, for absolute operands."""


def _decode(code: bytes, va: int = 0) -> tuple[iced_x86.Decoder, iced_x86.Instruction]:
    decoder = iced_x86.Decoder(32, code, ip=va)
    return decoder, decoder.decode()


def register_operand(code: bytes, width: int = 32) -> str | None:
    """The general register among the operands of the first instruction, as wide as asked for.

    None if the operand is memory. Registers of 16 bits are named by their low word (`ax`).
    """
    _, instruction = _decode(code)
    info = iced_x86.RegisterExt
    for index in range(instruction.op_count):
        if instruction.op_kind(index) != iced_x86.OpKind.REGISTER:
            continue
        register = instruction.op_register(index)
        if info.is_gpr(register):
            name = _NAMES[info.number(register)]
            return f"e{name}" if width == 32 else name
    return None


_NAMES = ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di")


def memory_operand(code: bytes, va: int, deeper_len: int) -> MemoryOperand:
    """The memory operand of the first instruction of `code`, linked at `va`.

    An operand relative to ESP is moved up by `deeper_len` bytes.
    """
    decoder, instruction = _decode(code, va)
    none = iced_x86.Register.NONE
    base, index = instruction.memory_base, instruction.memory_index
    displacement = instruction.memory_displacement & 0xFFFFFFFF
    if base == iced_x86.Register.ESP:
        displacement += deeper_len
    parts = [_name(base)] if base != none else []
    if index != none:
        parts.append(f"{_name(index)}*{instruction.memory_index_scale}")
    parts.append(f"{displacement & 0xFFFFFFFF:#x}")
    segment = instruction.segment_prefix
    prefix = f"{_name(segment)}:" if segment != none else ""
    absolute = base == none and index == none
    word_va = None
    if absolute:
        word_va = va + decoder.get_constant_offsets(instruction).displacement_offset
    return MemoryOperand(f"{prefix}[{' + '.join(parts)}]", absolute, displacement, word_va)


def _name(register: iced_x86.Register_) -> str:
    return _REGISTER_NAMES[register]


_REGISTER_NAMES = {
    value: name.lower() for name, value in vars(iced_x86.Register).items() if isinstance(value, int)
}

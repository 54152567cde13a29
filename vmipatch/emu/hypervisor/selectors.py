# SPDX-License-Identifier: MIT
"""What does a kernel at CPL 1 read from CS and SS? The selectors that it was linked for, RPL 0.

Only the kernel's ring is emulated, so that the RPL in the register is never the user's. Source:
Intel SDM volume 2, MOV and PUSH; a selector is zero-extended to an operand of 32 bits.
"""

from __future__ import annotations

from typing import Final

from vmipatch.emu.hypervisor.context import Context
from vmipatch.emu.processor.segment import SegReg
from vmipatch.isa.trapped import TrappedInstruction

_RPL: Final = 3


def mov_from_cs(context: Context, instruction: TrappedInstruction) -> None:
    """MOV r/m16, CS."""
    context.write_operand(instruction, _linked(context, SegReg.CS))


def mov_from_ss(context: Context, instruction: TrappedInstruction) -> None:
    """MOV r/m16, SS."""
    context.write_operand(instruction, _linked(context, SegReg.SS))


def push_cs(context: Context, instruction: TrappedInstruction) -> None:
    """PUSH CS."""
    context.push(_linked(context, SegReg.CS), instruction.operand_len)


def push_ss(context: Context, instruction: TrappedInstruction) -> None:
    """PUSH SS."""
    context.push(_linked(context, SegReg.SS), instruction.operand_len)


def _linked(context: Context, which: SegReg) -> int:
    return context.registers.selector(which) & ~_RPL

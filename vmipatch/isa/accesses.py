# SPDX-License-Identifier: MIT
"""Which memory does an instruction load and store? Its operands, the stack's included.

Descriptors, task segments and page tables, which the CPU reads by itself, are not among them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import iced_x86

from vmipatch.isa.trapped import MAX_LEN, MemoryPlace

_INFO: Final = iced_x86.InstructionInfoFactory()
_ACCESS: Final = iced_x86.OpAccess
_LOADS: Final = frozenset(
    {_ACCESS.READ, _ACCESS.COND_READ, _ACCESS.READ_WRITE, _ACCESS.READ_COND_WRITE}
)
_STORES: Final = frozenset(
    {_ACCESS.WRITE, _ACCESS.COND_WRITE, _ACCESS.READ_WRITE, _ACCESS.READ_COND_WRITE}
)
_LONGEST: Final = 512
"""Bytes, of FXSAVE: for operands whose length depends on the CPU's mode."""


@dataclass(frozen=True, slots=True)
class MemoryAccess:
    """One operand in memory."""

    place: MemoryPlace
    length: int
    """Bytes."""
    loads: bool
    stores: bool
    index_mask: int = 0xFFFFFFFF
    """Of the index register: XLAT takes its lowest byte."""

    def overlaps(self, base_va: int, gpr: Callable[[int], int], va: int, length: int) -> bool:
        """Whether any of its bytes is in [va, va + length); `base_va`: of its segment."""
        index = self.place.index

        def masked(number: int) -> int:
            return gpr(number) & self.index_mask if number == index else gpr(number)

        start_va = base_va + self.place.offset(masked) & 0xFFFFFFFF
        return start_va < va + length and va < start_va + self.length


@lru_cache(maxsize=1 << 10)
def memory_accesses(code: bytes, bits: int) -> tuple[MemoryAccess, ...]:
    """Those of the instruction that `code` begins with, in code of 16 or 32 bits.

    Of a repeated string instruction: those of one round.
    """
    instruction = iced_x86.Decoder(bits, code[:MAX_LEN]).decode()
    if instruction.is_invalid:
        return ()
    found = []
    for used in _INFO.info(instruction).used_memory():
        sizes = (used.memory_size, instruction.memory_size)
        length = next(filter(None, map(iced_x86.MemorySizeExt.size, sizes)), _LONGEST)
        loads, stores = used.access in _LOADS, used.access in _STORES
        if loads or stores:
            mask = 0xFF if used.index == iced_x86.Register.AL else 0xFFFFFFFF
            found.append(MemoryAccess(_place(used), length, loads, stores, mask))
    return tuple(found)


def _place(used: iced_x86.UsedMemory) -> MemoryPlace:
    number, none = iced_x86.RegisterExt.number, iced_x86.Register.NONE
    return MemoryPlace(
        segment=number(used.segment),
        base=None if used.base == none else number(used.base),
        index=None if used.index == none else number(used.index),
        scale=used.scale,
        displacement=used.displacement & 0xFFFFFFFF,
        mask=0xFFFF if used.address_size == iced_x86.CodeSize.CODE16 else 0xFFFFFFFF,
    )

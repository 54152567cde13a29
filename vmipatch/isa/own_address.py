# SPDX-License-Identifier: MIT
"""Which addresses do constants name that are added to a register which holds the code's own?"""

from __future__ import annotations

from collections.abc import Iterator, Set

import iced_x86

_R, _M = iced_x86.Register, iced_x86.Mnemonic
REGISTERS = (_R.EAX, _R.ECX, _R.EDX, _R.EBX, _R.ESP, _R.EBP, _R.ESI, _R.EDI)
"""By their numbers in instructions."""
MOVES = (_M.MOV, _M.POP, _M.XOR, _M.LEA)
"""Instructions after which the register holds something else."""
WORD_MASK = 0xFFFFFFFF


def constants_next_to(register: int, code: bytes, va: int, words: Set[int]) -> Iterator[int]:
    """The addresses that `code` at `va` computes from `register`, which holds `va` at its start.

    A constant is added, subtracted or a displacement; with a place in `words` it has a relocation,
    which records it. Ends where the register gets another value.
    """
    base, wanted = va, REGISTERS[register]
    decoder = iced_x86.Decoder(32, code, ip=va)
    for one in decoder:
        at = decoder.get_constant_offsets(one)
        is_target = one.op0_kind == iced_x86.OpKind.REGISTER and one.op0_register == wanted
        if is_target and one.mnemonic in (_M.ADD, _M.SUB) and at.has_immediate:
            if one.ip + at.immediate_offset in words:
                return
            summand = one.immediate(1)
            base = (base + (summand if one.mnemonic == _M.ADD else -summand)) & WORD_MASK
            yield base
            continue
        is_base = one.memory_base == wanted and at.has_displacement
        if is_base and one.ip + at.displacement_offset not in words:
            yield (base + one.memory_displacement) & WORD_MASK
        if one.ip > va and is_target and one.mnemonic in MOVES:
            return

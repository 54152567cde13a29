# SPDX-License-Identifier: MIT
"""Are these bytes code of 16 bits that switches to protected mode?"""

from __future__ import annotations

import iced_x86

MOV_CR0 = bytes.fromhex("0f22")
FAR_JUMP_32 = bytes.fromhex("66ea")
"""ljmpl: the offset of the far jump that loads a 32-bit code segment has 32 bits."""


def enters_protected_mode(code: bytes) -> bool:
    """Whether `code`, decoded as 16 bits, writes CR0 and ends with a far jump of 32 bits.

    What follows the jump may be anything. Every byte up to it belongs to an instruction.
    """
    writes_cr0 = False
    for instruction in iced_x86.Decoder(16, code):
        here = code[instruction.ip : instruction.ip + instruction.len]
        if instruction.code == iced_x86.Code.INVALID:
            return False
        if here.startswith(FAR_JUMP_32):
            return writes_cr0
        writes_cr0 |= here.startswith(MOV_CR0) and here[2] >> 3 & 7 == 0
    return False

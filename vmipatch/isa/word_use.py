# SPDX-License-Identifier: MIT
"""The use that an instruction makes of a word in it: does it go there, read it, or add it?"""

from __future__ import annotations

import enum

import iced_x86

SELECTOR_LEN = 2
"""Bytes of the selector, the last of a far branch."""


class WordUse(enum.Enum):
    """The use of a word in an instruction."""

    IMMEDIATE = "an immediate operand, or where a far branch goes"
    DATA = "all of the address of memory that it reads or writes"
    PART = "a part of an address, or a distance"


def word_use(code: bytes, at: int) -> WordUse:
    """The use that the instruction `code` makes of its 4 bytes at offset `at`."""
    decoder = iced_x86.Decoder(32, code)
    instruction = decoder.decode()
    offsets = decoder.get_constant_offsets(instruction)
    none = iced_x86.Register.NONE
    flow = instruction.flow_control
    if instruction.op0_kind == iced_x86.OpKind.FAR_BRANCH32 and at + 4 + SELECTOR_LEN == len(code):
        return WordUse.IMMEDIATE
    if flow not in (iced_x86.FlowControl.NEXT, iced_x86.FlowControl.EXCEPTION):
        return WordUse.PART
    if offsets.has_immediate and (offsets.immediate_offset, offsets.immediate_size) == (at, 4):
        return WordUse.IMMEDIATE
    alone = instruction.memory_base == none and instruction.memory_index == none
    is_lea = instruction.mnemonic == iced_x86.Mnemonic.LEA
    is_displacement = offsets.has_displacement and offsets.displacement_offset == at
    return WordUse.DATA if alone and is_displacement and not is_lea else WordUse.PART

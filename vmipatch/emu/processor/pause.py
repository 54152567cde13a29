# SPDX-License-Identifier: MIT
"""Is it a PAUSE, and where does the code go on after one? After its last byte."""

from __future__ import annotations

from typing import Final

from vmipatch.emu.processor.paging import Mmu
from vmipatch.emu.processor.registers import RegisterFile

_OPCODE: Final = 0x90
_MOST_LEN: Final = 15
_PREFIXES: Final = b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf2\xf3"
_REP: Final = 0xF3


def pause_len(code: bytes) -> int:
    """Bytes of the PAUSE that `code` begins with, 0 if it begins with another instruction.

    The last of the prefixes F2 and F3 counts (Intel SDM volume 2, NOP and PAUSE).
    """
    at = len(code) - len(code.lstrip(_PREFIXES))
    repeats = [prefix for prefix in code[:at] if prefix & 0xFE == 0xF2]
    is_pause = code[at : at + 1] == bytes([_OPCODE]) and repeats[-1:] == [_REP]
    return at + 1 if is_pause and at < _MOST_LEN else 0


def skip_pause(registers: RegisterFile, mmu: Mmu) -> None:
    """Move EIP from the first prefix to what follows the instruction, all of which is readable."""
    length = 2
    while length < _MOST_LEN and mmu.peek(registers.code_va + length - 1, 1) != bytes([_OPCODE]):
        length += 1
    registers.eip += length

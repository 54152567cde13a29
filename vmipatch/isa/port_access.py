# SPDX-License-Identifier: MIT
"""Which instructions of a piece of code access ports, and which ports? IN, OUT, INS and OUTS.

Source: Intel SDM volume 2, IN, OUT, INS, OUTS.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import iced_x86

from vmipatch.isa.trapped import MAX_LEN

_OPCODES: Final = re.compile(rb"[\x6c-\x6f\xe4-\xe7\xec-\xef]")
_BY_IMMEDIATE: Final = frozenset(b"\xe4\xe5\xe6\xe7")
_STRINGS_END: Final = 0x70
_PREFIXES: Final = b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3"
_OPERAND_SIZE: Final = 0x66


@dataclass(frozen=True, slots=True)
class PortAccess:
    """The access of one instruction."""

    port: int | None
    """The first one; None: the one in DX."""
    size: int
    """Bytes, and as many ports."""
    is_out: bool
    is_string: bool
    """INS and OUTS, with memory in place of EAX."""
    length: int
    """Bytes of the instruction."""


@lru_cache(maxsize=1 << 14)
def port_accesses(code: bytes, bits: int) -> tuple[int, ...]:
    """The offsets of instructions that access ports, in code that runs from its first byte on.

    `bits`: 16 or 32, of the code segment. Decoding ends at what is not an instruction.
    """
    if not _OPCODES.search(code):
        return ()
    found = []
    options = iced_x86.DecoderOptions.NO_INVALID_CHECK
    for instruction in iced_x86.Decoder(bits, code, options):
        if instruction.is_invalid:
            break
        at = instruction.ip
        if port_access(code[at : at + instruction.len], bits) is not None:
            found.append(at)
    return tuple(found)


@lru_cache(maxsize=1 << 10)
def port_access(code: bytes, bits: int) -> PortAccess | None:
    """The access of the instruction that `code` begins with; None if it does not make any."""
    window = code[:MAX_LEN]
    rest = window.lstrip(_PREFIXES)
    if not rest or not _OPCODES.match(rest):
        return None
    opcode, prefixes_len = rest[0], len(window) - len(rest)
    is_wide = (_OPERAND_SIZE in window[:prefixes_len]) is (bits == 16)
    by_immediate = opcode in _BY_IMMEDIATE
    length = prefixes_len + 1 + by_immediate
    if length > len(window):
        return None
    return PortAccess(
        port=rest[1] if by_immediate else None,
        size=(4 if is_wide else 2) if opcode & 1 else 1,
        is_out=bool(opcode & 2),
        is_string=opcode < _STRINGS_END,
        length=length,
    )

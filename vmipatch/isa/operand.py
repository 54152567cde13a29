# SPDX-License-Identifier: MIT
"""What is the operand of a site, in the words of the assembler?"""

from __future__ import annotations

from dataclasses import dataclass

import iced_x86

from vmipatch.isa.classify import split_prefixes

ESP = 4
LEA = 0x8D


@dataclass(frozen=True, slots=True)
class Address:
    """`lea eax, operand`, for use where the stack lies deeper than at the site."""

    head: bytes
    """Opcode, ModRM and SIB."""
    displacement: int
    """The four bytes that follow, as a number."""
    word_va: int | None
    """Where the site has them too; None if it has a shorter one, which no relocation fills."""


def register_operand(code: bytes, width: int = 32) -> str | None:
    """The general register among the operands of the first instruction, as wide as asked for.

    None if the operand is memory. Registers of 16 bits are named by their low word (`ax`).
    """
    instruction = iced_x86.Decoder(32, code).decode()
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


def address_of(code: bytes, opcode_len: int, va: int, deeper_len: int) -> Address | None:
    """How to compute the address of the ModRM operand of `code`, linked at `va`.

    `opcode_len` counts the opcode without prefixes. An operand relative to ESP is moved up by
    `deeper_len` bytes. None if the operand is a register, or lies in a segment of its own.
    """
    prefixes, rest = split_prefixes(code)
    at = len(prefixes) + opcode_len
    mod, low = rest[opcode_len] >> 6, rest[opcode_len] & 7
    if mod == 3 or any(prefix in _OWN_SEGMENTS for prefix in prefixes):
        return None
    sib = rest[opcode_len + 1 : opcode_len + 2] if low == ESP else b""
    bare = mod == 0 and (sib[0] & 7 if sib else low) == NO_BASE
    disp_at = at + 1 + len(sib)
    disp_len = 4 if bare or mod == 2 else mod
    raw = code[disp_at : disp_at + disp_len]
    displacement = int.from_bytes(raw, "little", signed=True)
    if sib and sib[0] & 7 == ESP:
        displacement += deeper_len
    modrm = low if bare else 0x80 | low
    word_va = va + disp_at if disp_len == 4 else None
    return Address(bytes((LEA, modrm)) + sib, displacement & 0xFFFFFFFF, word_va)


NO_BASE = 5
"""ModRM.rm or SIB.base with mod 0: a displacement alone (Intel SDM volume 2, table 2-2)."""

_OWN_SEGMENTS = frozenset(b"\x64\x65\x67")
"""FS and GS have bases of their own; 67 makes 16-bit addresses, which no i386 kernel uses."""

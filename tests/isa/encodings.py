# SPDX-License-Identifier: MIT
"""How is each sensitive form encoded, and what do the two decoders call it?"""

from __future__ import annotations

from functools import cache

import capstone
import iced_x86

from vmipatch.isa.forms import Form, WantedModrm

IMMEDIATES = {
    b"\xe4": "60", b"\xe5": "60", b"\xe6": "60", b"\xe7": "60", b"\xcd": "80",
    b"\xca": "0800", b"\x0f\x3a\xf0": "08", b"\xea": "000000c16000", b"\x9a": "000000c16000",
}  # fmt: skip
"""The bytes after the opcode, by opcode."""

MEMORY = {0x00: "", 0x04: "24", 0x05: "000000c1", 0x41: "08", 0x80: "00010000"}
"""ModRM without its middle field, and what follows: [eax], [esp], [abs], [ecx+8], [eax+0x100]."""
REGISTERS = (0xC0, 0xC3, 0xC7)
NO_REGISTERS = frozenset((b"\x0f\x3a\xf0",))
"""HRESET: its ModRM is C0 and nothing else."""
SPECIAL = frozenset((b"\x0f\x20", b"\x0f\x21", b"\x0f\x22", b"\x0f\x23"))
"""MOV to and from control and debug registers: ModRM always names a register."""


def examples(form: Form) -> list[bytes]:
    """Encodings of `form`, each one instruction."""
    prefix = b"" if form.prefix is None else bytes((form.prefix,))
    start = prefix + form.opcode
    if form.operand is WantedModrm.NONE:
        return [start + bytes.fromhex(IMMEDIATES.get(form.opcode, ""))]
    reg = (form.reg or 0) << 3
    in_memory = [start + bytes((modrm | reg,)) + bytes.fromhex(t) for modrm, t in MEMORY.items()]
    tail = bytes.fromhex(IMMEDIATES.get(form.opcode, ""))
    registers = REGISTERS[:1] if form.opcode in NO_REGISTERS else REGISTERS
    in_register = [start + bytes((modrm | reg,)) + tail for modrm in registers]
    if form.opcode in SPECIAL or form.operand is WantedModrm.REGISTER:
        return in_register
    return in_memory if form.operand is WantedModrm.MEMORY else in_memory + in_register


@cache
def _capstone() -> capstone.Cs:
    return capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_32)


_MNEMONICS = {
    number: name.lower()
    for name, number in vars(iced_x86.Mnemonic).items()
    if isinstance(number, int)
}
_FORMATTER = iced_x86.Formatter(iced_x86.FormatterSyntax.NASM)


def by_iced(code: bytes) -> tuple[int, str, str] | None:
    """Length, mnemonic and operands of the first instruction, None if it is not one."""
    instruction = iced_x86.Decoder(32, code).decode()
    if not instruction.code:
        return None
    operands = _FORMATTER.format_all_operands(instruction)
    return instruction.len, _MNEMONICS[instruction.mnemonic], operands


def by_capstone(code: bytes) -> tuple[int, str, str] | None:
    """Length, mnemonic and operands of the first instruction, None if it is not one."""
    instruction = next(_capstone().disasm(code, 0, 1), None)
    return instruction and (instruction.size, instruction.mnemonic, instruction.op_str)

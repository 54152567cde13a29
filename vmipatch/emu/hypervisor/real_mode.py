# SPDX-License-Identifier: MIT
"""How does a starting processor leave real mode? By a write of CR0, which ends its time at CPL 0.

Between STARTUP and CR0.PE a processor is in real mode, which has no rings: the one time that code
of a deprivileged guest runs at CPL 0 (docs/decisions/0032). Writes of CR0 are intercepted there, in
the three forms that a CPU has; an operand of LMSW in memory is not supported, and no Linux has one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from vmipatch.emu.hypervisor.control import CR4_KNOWN, EFER, EFER_NXE
from vmipatch.emu.processor.bits import Cr0, HFlag
from vmipatch.emu.processor.cpu import Cpu
from vmipatch.emu.processor.intercepts import VMEXIT, SvmExit
from vmipatch.emu.processor.registers import RegisterFile
from vmipatch.emu.processor.segment import SegReg
from vmipatch.emu.report import Ending, GuestEnded

_PREFIXES: Final = b"\x66\x67\x2e\x36\x3e\x26\x64\x65\xf2\xf3"
_LOW: Final = 0xF
_PE, _TS, _PG = int(Cr0.PE), int(Cr0.TS), int(Cr0.PG)
_DPL_1: Final = 1 << 13
_CLTS, _MOV, _GROUP = b"\x0f\x06", b"\x0f\x22", b"\x0f\x01"
_LMSW_REGISTER: Final = 0xF0
"""ModRM of LMSW with a register, which is in the lowest three bits."""


@dataclass(frozen=True, slots=True)
class Cr0Write:
    """A write of CR0 that the CPU is about to make."""

    value: int
    length: int
    """Bytes of the instruction, its prefixes included."""


def cr0_write(code: bytes, registers: RegisterFile) -> Cr0Write | None:
    """The write that the instruction at the beginning of `code` makes; None for any other form."""
    start = 0
    while code[start : start + 1] and code[start] in _PREFIXES:
        start += 1
    opcode, modrm = code[start : start + 2], code[start + 2 : start + 3]
    old = registers.cr0
    if opcode == _CLTS:
        return Cr0Write(old & ~_TS, start + 2)
    if not modrm:
        return None
    source = registers.gpr(modrm[0] & 7)
    if opcode == _MOV and not modrm[0] >> 3 & 7:
        return Cr0Write(source, start + 3)
    if opcode == _GROUP and modrm[0] & ~7 == _LMSW_REGISTER:
        return Cr0Write(old & ~_LOW | source & _LOW | old & _PE, start + 3)
    return None


def written_cr0(number: int, software: bool, code: bytes, registers: RegisterFile) -> int | None:
    """Serve event `number` at an instruction that `code` begins with; EIP goes on after it.

    Returns CR0 if protected mode begins, None if real mode stays. Raises GuestEnded for all that is
    not a write of CR0.
    """
    if software or number != VMEXIT + SvmExit.CR0_WRITE:
        raise GuestEnded(Ending.UNSUPPORTED, f"event {number:#x} in real mode")
    write = cr0_write(code, registers)
    if write is None:
        raise GuestEnded(Ending.UNSUPPORTED, "a write of CR0 from memory in real mode")
    registers.eip += write.length
    if write.value & _PE:
        return write.value
    if write.value & _PG:
        raise GuestEnded(Ending.UNSUPPORTED, "paging without protected mode")
    registers.cr0 = write.value
    return None


def enter_protected_mode(cpu: Cpu, cr0: int) -> None:
    """Load CR0, in ring 1 with the segments that real mode had (Intel SDM volume 3, 9.9.1)."""
    registers = cpu.registers
    registers.cr0 = cr0 | _PE
    registers.cr4 &= CR4_KNOWN
    cpu.write_msr(EFER, cpu.read_msr(EFER) & EFER_NXE)
    registers.hflags |= HFlag.PE
    for which in (SegReg.CS, SegReg.SS):
        segment = registers.segment(which)
        rights = segment.attributes | _DPL_1
        registers.set_segment(which, replace(segment, attributes=rights))

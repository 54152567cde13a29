# SPDX-License-Identifier: MIT
"""Which constants of 32 bits does the second decoder see in code, instruction by instruction?

For code of a few thousand instructions, such as the boot code of a bzImage: each is an object, with
its text as the manuals write it. `second` is for kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import capstone
import capstone.x86_const as x86

_WIDE = 4
_ADDS = ("mov", "add", "sub")


@dataclass(frozen=True, slots=True)
class Wide:
    """A constant of 32 bits that is not the displacement of a branch."""

    off: int
    value: int
    """Signed."""
    is_immediate: bool
    may_point: bool
    """Whether an address can come of it: a displacement from a register, an immediate that is
    moved, added or subtracted."""


@dataclass(frozen=True, slots=True)
class Line:
    """One instruction, or one byte that is not one."""

    off: int
    length: int
    name: str
    """Its mnemonic with prefixes such as rep; empty for a byte that is not an instruction."""
    operands: str
    """As the Intel manuals write them, numbers in hexadecimal."""
    target: int | None
    """Of a direct branch."""
    is_wide: bool
    """Whether that has a displacement of 32 bits, the last of its bytes."""
    wides: tuple[Wide, ...]

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.off + self.length

    @property
    def goes_on(self) -> bool:
        """Whether the next instruction may be executed after it."""
        base = self.name.rsplit(" ", 1)[-1]
        return base not in ("jmp", "ret", "retf", "iretd", "iret", "ud2", "ljmp", "sysexit")

    @property
    def is_filler(self) -> bool:
        """Whether assemblers pad code with it."""
        if self.name in ("nop", "int3"):
            return True
        parts = [part.strip() for part in self.operands.split(",")]
        moves_itself = self.name == "mov" and parts[0] == parts[-1]
        return moves_itself or (self.name == "lea" and parts[-1] in _itself(parts[0]))


def listing(code: bytes, off: int) -> list[Line]:
    """The instructions of `code`, linked at `off`, and the bytes between that are none."""
    return [_line(each, code, off) for each in _engine().disasm(code, off)]


def _itself(register: str) -> tuple[str, ...]:
    plain = f"[{register}]"
    return plain, f"[{register} + eiz]", f"[{register} + eiz*1]", f"[{register}*1]"


def _line(each: capstone.CsInsn, code: bytes, off: int) -> Line:
    if not each.id:
        return Line(each.address, each.size, "", "", None, False, ())
    target = _target(each)
    wides = () if target is not None else tuple(_wides(each, code, off))
    is_wide = target is not None and each.encoding.imm_size == _WIDE
    return Line(each.address, each.size, each.mnemonic, each.op_str, target, is_wide, wides)


def _target(each: capstone.CsInsn) -> int | None:
    """Where a direct branch goes."""
    branches = (x86.X86_GRP_BRANCH_RELATIVE, x86.X86_GRP_CALL, x86.X86_GRP_JUMP)
    operands = each.operands
    if not any(map(each.group, branches)) or len(operands) != 1:
        return None
    return int(operands[0].imm) & 0xFFFFFFFF if operands[0].type == x86.X86_OP_IMM else None


def _wides(each: capstone.CsInsn, code: bytes, off: int) -> Iterator[Wide]:
    place = each.encoding
    if place.disp_size == _WIDE:
        at = each.address + place.disp_offset
        memory = [o.mem for o in each.operands if o.type == x86.X86_OP_MEM]
        has_register = any(m.base or m.index for m in memory)
        yield Wide(at, _word(code, at - off), False, has_register)
    if place.imm_size == _WIDE:
        at = each.address + place.imm_offset
        yield Wide(at, _word(code, at - off), True, each.mnemonic in _ADDS)


def _word(code: bytes, at: int) -> int:
    return int.from_bytes(code[at : at + _WIDE], "little", signed=True)


@cache
def _engine() -> capstone.Cs:
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_32)
    engine.detail = True
    engine.skipdata = True
    return engine

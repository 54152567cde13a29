# SPDX-License-Identifier: MIT
"""How does a test call one routine of the runtime? In a bare CPU, with a memory of its own."""

from __future__ import annotations

import struct
from typing import Any

import unicorn
from unicorn import x86_const

from vmipatch.isa.assemble import Assembled

CODE_VA, STACK_VA, DATA_VA = 0x100000, 0x300000, 0x1000000
CODE_LEN, STACK_LEN, DATA_LEN = 0x10000, 0x10000, 0x200000
RETURN_VA = CODE_VA + CODE_LEN - 16
MOST_INSTRUCTIONS = 100_000_000
_REGISTERS = {
    name: getattr(x86_const, f"UC_X86_REG_{name.upper()}")
    for name in ("eax", "ebx", "ecx", "edx", "esi", "edi", "ebp", "esp")
}


_DESCRIPTORS = (
    0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00CFBB000000FFFF, 0x00CFB3000000FFFF,
)  # fmt: skip
_GDT_VA, _STUB_VA = CODE_VA + CODE_LEN - 0x100, CODE_VA + CODE_LEN - 0x80
RING1_CS, RING1_SS = 0x19, 0x21


class Bare:
    """A CPU with flat segments at CPL 0, and code that returns to nowhere."""

    def __init__(self, code: Assembled) -> None:
        self._code = code
        made: Any = unicorn  # ships hints that say less than it does
        self._cpu = made.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)
        for va, length in ((CODE_VA, CODE_LEN), (STACK_VA, STACK_LEN), (DATA_VA, DATA_LEN)):
            self._cpu.mem_map(va, length)
        self._cpu.mem_write(CODE_VA, code.code)
        self.write(_GDT_VA, struct.pack(f"<{len(_DESCRIPTORS)}Q", *_DESCRIPTORS))
        self._cpu.reg_write(x86_const.UC_X86_REG_GDTR, (0, _GDT_VA, 8 * len(_DESCRIPTORS) - 1, 0))
        self._cpu.reg_write(x86_const.UC_X86_REG_CS, 0x08)
        for segment in ("SS", "DS", "ES"):
            self._cpu.reg_write(getattr(x86_const, f"UC_X86_REG_{segment}"), 0x10)

    def descend(self) -> None:
        """Go to CPL 1 for good, by IRET: Unicorn does not let the CPL be written."""
        stack = STACK_VA + 0x100
        self.words(stack, _STUB_VA + 1, RING1_CS, 2, stack, RING1_SS)
        self.write(_STUB_VA, b"\xcf\x90")
        self._cpu.reg_write(_REGISTERS["esp"], stack)
        self._cpu.emu_start(_STUB_VA, _STUB_VA + 1, count=2)
        assert self._cpu.reg_read(x86_const.UC_X86_REG_CS) == RING1_CS

    def write(self, va: int, data: bytes) -> None:
        """Put bytes into memory."""
        self._cpu.mem_write(va, data)

    def read(self, va: int, length: int) -> bytes:
        """Bytes of the memory."""
        return bytes(self._cpu.mem_read(va, length))

    def words(self, va: int, *values: int) -> None:
        """Put u32 words into memory."""
        self.write(va, struct.pack(f"<{len(values)}I", *(v & 0xFFFFFFFF for v in values)))

    def call(self, label: str, **registers: int) -> dict[str, int]:
        """Call a routine; all general registers when it has returned."""
        stack = STACK_VA + STACK_LEN - 0x100
        self.words(stack, RETURN_VA)
        for name, value in registers.items():
            self._cpu.reg_write(_REGISTERS[name], value)
        self._cpu.reg_write(_REGISTERS["esp"], stack)
        start = self._code.labels[label]
        self._cpu.emu_start(start, RETURN_VA, count=MOST_INSTRUCTIONS)
        after = {name: int(self._cpu.reg_read(number)) for name, number in _REGISTERS.items()}
        assert after["esp"] == stack + 4, "the routine did not return"
        return after

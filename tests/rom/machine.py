# SPDX-License-Identifier: MIT
"""What does an entry do to the state of a processor? Unicorn is asked, as an independent oracle."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import unicorn
from unicorn import x86_const as x86

from vmipatch.rom import Rom
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.shared import ROM_PA, SHARED_PA, TIME_PA, Shared, Time

BASE = 0xC0000000
"""Where the first MiB is seen, as in a kernel: the ROM's absolute words need fixing up."""
SITE_VA, GDT_VA, BUFFER_VA, STACK_VA = (BASE + pa for pa in (0x1000, 0x2000, 0x3000, 0x8000))
STACK_PAD = 0x100
TARGET_VA = BASE + 0x5000
ROM_VA = BASE + ROM_PA
CALL_LEN = 5

GPRS = ("eax", "ebx", "ecx", "edx", "esi", "edi", "ebp")
_REG = {
    name: getattr(x86, f"UC_X86_REG_{name.upper()}")
    for name in (*GPRS, "esp", "eip", "eflags", "cs", "cr0", "cr2", "cr3", "cr4",
                 *(f"dr{n}" for n in (0, 1, 2, 3, 6, 7)))
}  # fmt: skip

KERNEL_CS, KERNEL_SS, RING1_CS, RING1_SS, USER_CS, USER_SS, TASK = (
    0x08, 0x10, 0x19, 0x21, 0x2B, 0x33, 0x38,
)  # fmt: skip
_DESCRIPTORS = (
    0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00CFBB000000FFFF, 0x00CFB3000000FFFF,
    0x00CFFB000000FFFF, 0x00CFF3000000FFFF, 0x0000890000000067,
)  # fmt: skip
IF = 0x200
FLAGS = 0x240CD5
"""CF, PF, AF, ZF, SF, DF, OF, AC and ID."""


@dataclass(frozen=True, slots=True)
class Interrupt:
    """An `int n` that the machine met, with the registers of that moment."""

    vector: int
    registers: dict[str, int]
    stack: tuple[int, int]


@dataclass(slots=True)
class RomMachine:
    """One processor with a ROM at its place, at CPL 0 and without paging."""

    rom: Rom
    rom_pa: int = ROM_PA
    uc: Any = field(init=False)
    interrupts: list[Interrupt] = field(default_factory=list)
    on_interrupt: Callable[[RomMachine, int], None] | None = None
    """Asked at every `int n` what is to happen."""

    def __post_init__(self) -> None:
        made: Any = unicorn  # ships hints that say less than it does
        self.uc = made.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)
        self.uc.mem_map(BASE, 0x100000)
        self.uc.mem_write(self.rom_va, fixed_up(self.rom, BASE))
        self.uc.mem_write(GDT_VA, struct.pack("<8Q", *_DESCRIPTORS))
        self.uc.reg_write(x86.UC_X86_REG_GDTR, (0, GDT_VA, 8 * len(_DESCRIPTORS) - 1, 0))
        for segment in ("CS", "SS", "DS", "ES"):
            selector = KERNEL_CS if segment == "CS" else KERNEL_SS
            self.uc.reg_write(getattr(x86, f"UC_X86_REG_{segment}"), selector)
        self.uc.hook_add(unicorn.UC_HOOK_INTR, self._interrupted)

    @property
    def rom_va(self) -> int:
        """Where the ROM is seen."""
        return BASE + self.rom_pa

    def __getitem__(self, register: str) -> int:
        return int(self.uc.reg_read(_REG[register]))

    def __setitem__(self, register: str, value: int) -> None:
        self.uc.reg_write(_REG[register], value)

    def set(self, registers: Mapping[str, int]) -> None:
        """Write several registers."""
        for name, value in registers.items():
            self[name] = value

    def registers(self) -> dict[str, int]:
        """The general registers without ESP."""
        return {name: self[name] for name in GPRS}

    def word(self, va: int) -> int:
        """The u32 at `va`."""
        return int.from_bytes(self.uc.mem_read(va, 4), "little")

    def put(self, va: int, *words: int) -> None:
        """Store u32s at `va`."""
        self.uc.mem_write(va, struct.pack(f"<{len(words)}I", *words))

    def shared(self, cell: Shared | Time) -> int:
        """The u32 of a cell of the two pages."""
        return self.word(cell_va(cell))

    def share(self, cell: Shared | Time, *words: int) -> None:
        """Store to a cell of the two pages."""
        self.put(cell_va(cell), *words)

    def site(self, entry_off: int) -> None:
        """Write the near call of a site and stand in front of it, the stack clean."""
        target = self.rom_va + entry_off - (SITE_VA + CALL_LEN)
        self.uc.mem_write(SITE_VA, b"\xe8" + struct.pack("<i", target))
        self.uc.mem_write(STACK_VA - STACK_PAD, bytes(2 * STACK_PAD))
        self["esp"] = STACK_VA
        self["eip"] = SITE_VA
        self.uc.ctl_flush_tb()  # the old site may have been translated
        self.interrupts.clear()

    def call(self, entry_off: int) -> None:
        """Call an entry and run until it returns; a HLT on the way is passed."""
        self.site(entry_off)
        for _ in range(2):
            self.run(SITE_VA + CALL_LEN)
            if self["eip"] == SITE_VA + CALL_LEN:
                return
        raise AssertionError(f"did not return, EIP is {self['eip']:#x}")

    def call_vmi(self, call: VmiCall) -> None:
        """Call the entry of a VMI call."""
        self.call(self.rom.entries[call])

    def run(self, until_va: int, steps: int = 200) -> None:
        """Run from EIP to an address, at most some instructions."""
        self.uc.emu_start(self["eip"], until_va, count=steps)

    def descend(self, cs: int, ss: int) -> None:
        """Go to an outer ring by IRET, since Unicorn does not let the CPL be written."""
        self["esp"] = STACK_VA - 20
        self.put(STACK_VA - 20, TARGET_VA, cs, 2, STACK_VA, ss)
        self.uc.mem_write(SITE_VA, b"\xcf")
        self.uc.emu_start(SITE_VA, TARGET_VA, count=2)
        assert self["cs"] == cs

    def _interrupted(self, uc: Any, vector: int, data: object) -> None:
        esp = self["esp"]
        stack = self.word(esp), self.word(esp + 4)
        self.interrupts.append(Interrupt(vector, self.registers(), stack))
        if self.on_interrupt is not None:
            self.on_interrupt(self, vector)


def cell_va(cell: Shared | Time) -> int:
    """Where a cell of the two pages is seen."""
    return BASE + (SHARED_PA if isinstance(cell, Shared) else TIME_PA) + cell


def fixed_up(rom: Rom, base: int) -> bytes:
    """The image as the hypervisor leaves it at VMI_Init."""
    data = bytearray(rom.data)
    for off in rom.fixups:
        word = int.from_bytes(data[off : off + 4], "little") + base
        data[off : off + 4] = word.to_bytes(4, "little")
    if off := rom.marks.stack_off:
        data[off : off + 4] = (-RING1_SS & 0xFFFFFFFF).to_bytes(4, "little")
    return bytes(data)

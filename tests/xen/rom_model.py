# SPDX-License-Identifier: MIT
"""What does the ROM's own code do, without Xen? Its functions run in Unicorn, on a model of Xen.

Linear addresses are physical ones here, and the domain's memory is what is mapped: what matters is
which hypercalls are made, and whether Xen would take them. The model has the rules of Xen's direct
paging (public/xen.h, mmu_update and mmuext_op): a page table is nowhere mapped writable.
"""

from __future__ import annotations

import importlib
import struct
from dataclasses import dataclass, field
from typing import Any

from unicorn.x86_const import (
    UC_X86_REG_EAX,
    UC_X86_REG_EBX,
    UC_X86_REG_ECX,
    UC_X86_REG_EDX,
    UC_X86_REG_EIP,
    UC_X86_REG_ESP,
)

from vmipatch.xen.code import RomCode, rom_code
from vmipatch.xen.domain0 import link_rom
from vmipatch.xen.facts import Facts

_UNICORN: Any = importlib.import_module("unicorn")

PAGE_OFFSET = 0xC0000000
SHIFT = 0x8000000
PAGES = 0x1000
"""16 MiB of memory, at 128 MiB of the machine."""
MEMORY_VA = PAGE_OFFSET + SHIFT
ROM_VA = MEMORY_VA + 0x100000
FIRST_FREE = 0x400
"""The first page of the domain that is not the ROM's."""
STACK_VA, CALLER_VA = 0x10000, 0x20000
PRESENT, WRITE = 1, 2
EINVAL = (-22) & 0xFFFFFFFF

_UPDATE_VA_MAPPING, _MMU_UPDATE, _MMUEXT, _CONSOLE, _SCHED = 14, 1, 26, 18, 29
_PIN_L2, _UNPIN = 1, 4


@dataclass
class RomModel:
    """The ROM in memory, and Xen as far as it has rules on pages."""

    code: RomCode = field(default_factory=rom_code)
    read_only: set[int] = field(default_factory=set)
    """Pages of the domain that are mapped read-only in the mapping of all memory."""
    pinned: set[int] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)
    told: str = ""
    ended: bool = False

    def __post_init__(self) -> None:
        self.uc: Any = _UNICORN.Uc(_UNICORN.UC_ARCH_X86, _UNICORN.UC_MODE_32)
        self.distance = ROM_VA - self.code.start
        self.uc.mem_map(PAGE_OFFSET, 0x800000)
        self.uc.mem_map(MEMORY_VA, PAGES * 4096)
        self.uc.mem_map(STACK_VA, 0x1000)
        self.uc.mem_map(CALLER_VA, 0x1000)
        self.uc.mem_write(CALLER_VA, b"\xf4")
        self.uc.mem_write(ROM_VA, link_rom(self.code, self.distance, PAGE_OFFSET, self.facts()))
        hypercalls = self.va("hypercall_page")
        for number in range(64):
            # int 0x82, ret: the hook finds the number in the address
            self.uc.mem_write(hypercalls + 32 * number, b"\xcd\x82\xc3")
        self.hypercalls = hypercalls
        self.uc.hook_add(_UNICORN.UC_HOOK_INTR, self._interrupted)
        for name, value in (("shift", SHIFT), ("pages", PAGES)):
            self.uc.mem_write(self.va(name), struct.pack("<I", value))

    @staticmethod
    def facts() -> Facts:
        """The facts that the ROM gets: page directory and level 2 of the kernel, in free pages."""
        zero = dict.fromkeys(Facts.__dataclass_fields__, 0)
        zero |= {
            "page_offset": PAGE_OFFSET,
            "image_len": PAGES * 4096,
            "page_directory": MEMORY_VA + (FIRST_FREE << 12),
            "page_middle": MEMORY_VA + ((FIRST_FREE + 1) << 12),
        }
        return Facts(**zero)

    def va(self, name: str) -> int:
        """Where a function or variable of the ROM is."""
        return self.code.symbols[name] + self.distance

    def call(self, name: str, *arguments: int) -> int:
        """A function's result: up to three words in EAX, EDX, ECX, the rest on the stack."""
        esp = STACK_VA + 0xF00
        words = [CALLER_VA, *arguments[3:]]
        self.uc.mem_write(esp, struct.pack(f"<{len(words)}I", *words))
        self.uc.reg_write(UC_X86_REG_ESP, esp)
        registers = (UC_X86_REG_EAX, UC_X86_REG_EDX, UC_X86_REG_ECX)
        for register, value in zip(registers, arguments, strict=False):
            self.uc.reg_write(register, value)
        self.uc.emu_start(self.va(name), CALLER_VA)
        return int(self.uc.reg_read(UC_X86_REG_EAX))

    def entry(self, va: int) -> int:
        """The 64-bit word at a linear address."""
        return int(struct.unpack("<Q", self.uc.mem_read(va, 8))[0])

    def write(self, va: int, value: int) -> None:
        """Store a 64-bit word, as a kernel does into a page that is not a table yet."""
        self.uc.mem_write(va, struct.pack("<Q", value))

    def type_of(self, frame: int) -> int:
        """The ROM's type of a frame of the machine."""
        return self.call("type_of", frame)

    def _interrupted(self, uc: Any, _number: int, _data: object) -> None:
        number = (uc.reg_read(UC_X86_REG_EIP) - 2 - self.hypercalls) // 32
        ebx, ecx, edx = (
            int(uc.reg_read(r)) for r in (UC_X86_REG_EBX, UC_X86_REG_ECX, UC_X86_REG_EDX)
        )
        result = 0
        if number == _MMU_UPDATE:
            result = self._update(*struct.unpack("<QQ", uc.mem_read(ebx, 16)))
        elif number == _UPDATE_VA_MAPPING:
            result = self._map(ebx, ecx | edx << 32)
        elif number == _MMUEXT:
            result = self._extended(*struct.unpack("<II", uc.mem_read(ebx, 8)))
        elif number == _SCHED:
            self.ended = True
            uc.emu_stop()
        elif number == _CONSOLE:
            self.told += bytes(uc.mem_read(edx, ecx)).decode()
        uc.reg_write(UC_X86_REG_EAX, result)

    def _refuse(self, what: str) -> int:
        self.refused.append(what)
        return EINVAL

    def _ours(self, frame: int) -> bool:
        return 0 <= frame - (SHIFT >> 12) < PAGES

    def _table_fault(self, frame: int, level: int) -> str:
        """Why Xen would not take a page as a table of that level; empty if it would."""
        if not self._ours(frame):
            return "a table that is not the domain's"
        if frame not in self.read_only:
            return f"a writable table {frame:#x}"
        for index in range(512):
            entry = self.entry(PAGE_OFFSET + (frame << 12) + 8 * index)
            if not entry & PRESENT:
                continue
            target = entry >> 12 & 0xFFFFFFFF
            if level == 2 and (fault := self._table_fault(target, 1)):
                return fault
            if level == 1 and entry & WRITE and target in self.read_only:
                return f"a writable mapping of {target:#x} in {frame:#x}"
        return ""

    def _update(self, address: int, value: int) -> int:
        frame, target = address >> 12, value >> 12 & 0xFFFFFFFF
        if frame not in self.read_only:
            return self._refuse(f"an update of {address:#x}, which is not in a table")
        is_level_2 = frame in self.pinned
        if value & PRESENT and is_level_2 and (fault := self._table_fault(target, 1)):
            return self._refuse(fault)
        if value & PRESENT and not is_level_2 and value & WRITE and target in self.read_only:
            return self._refuse(f"a writable mapping of {target:#x}")
        self.write(PAGE_OFFSET + address, value)
        return 0

    def _map(self, va: int, entry: int) -> int:
        frame = entry >> 12 & 0xFFFFFFFF
        if va != PAGE_OFFSET + (frame << 12) or not self._ours(frame):
            return self._refuse(f"a mapping of {va:#x}")
        if not entry & WRITE:
            self.read_only.add(frame)
            return 0
        if frame in self.pinned or self._is_in_use(frame):
            return self._refuse(f"a writable mapping of the table {frame:#x}")
        self.read_only.discard(frame)
        return 0

    def _is_in_use(self, frame: int) -> bool:
        return any(
            self.entry(PAGE_OFFSET + (table << 12) + 8 * index) >> 12 & 0xFFFFFFFF == frame
            for table in self.pinned
            for index in range(512)
            if self.entry(PAGE_OFFSET + (table << 12) + 8 * index) & PRESENT
        )

    def _extended(self, command: int, frame: int) -> int:
        if command == _PIN_L2:
            if fault := self._table_fault(frame, 2):
                return self._refuse(fault)
            self.pinned.add(frame)
        elif command == _UNPIN:
            self.pinned.discard(frame)
        return 0

# SPDX-License-Identifier: MIT
"""How does a kernel get into memory? As by a boot loader of the 32-bit protocol, from an ELF file.

Source: Documentation/x86/boot.rst of Linux, "32-bit BOOT PROTOCOL", and zero-page.rst. The kernel
is entered where its ELF header says, uncompressed; what a bzImage's setup header would have told it
is made up here, unless it is the bzImage's own code that is entered.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, field, replace
from typing import Final

from vmipatch.emu.memory import HIGH_PA, LOW_END_PA, PAGE_LEN, GuestMemory
from vmipatch.emu.registers import Cr0, Flag, HFlag, RegisterFile, Segment, SegReg
from vmipatch.errors import InputNotUnderstood
from vmipatch.image.elf import ElfImage
from vmipatch.image.setup_header import HEADER_OFF, MAGIC_OFF, LoadFlag, SetupHeader, header_end

GDT_PA: Final = 0x8000
ZERO_PAGE_PA: Final = 0x90000
COMMAND_LINE_PA: Final = 0x98000
MAX_COMMAND_LINE_LEN: Final = 2047
INITRD_END_PA: Final = 0x37FE0000
"""Direct-mapped memory of a 3 GiB/1 GiB split ends near there: the initrd must lie below."""
BIOS_DATA_PA: Final = 0x9FC00
"""Where a BIOS keeps its extended data: the end of low memory."""
BIOS_PA: Final = 0xF0000
BOOT_CS, BOOT_DS = 0x10, 0x18

_PROTOCOL = 0x020D
_SHORT_JUMP = 0xEB
_UNKNOWN_LOADER = 0xFF
_EXT_MEM_K_OFF, _ALT_MEM_K_OFF = 0x002, 0x1E0
"""KiB above 1 MiB as two older BIOS calls tell them, in 16 bits and in 32 (zero-page.rst, and
screen_info.ext_mem_k of include/uapi/linux/screen_info.h)."""
_MOST_EXT_MEM_K = 0xFC00
_E820_COUNT_OFF, _E820_OFF = 0x1E8, 0x2D0
_E820_ENTRY = struct.Struct("<QQI")
_FLAT_CODE, _FLAT_DATA = 0x00CF9B00, 0x00CF9300
_FLAT_LIMIT = 0xFFFFFFFF
_AVAILABLE_TSS = 0x8900


class E820Kind(enum.IntEnum):
    """What memory is for."""

    RAM = 1
    RESERVED = 2


@dataclass(frozen=True, slots=True)
class E820Entry:
    """A range of the memory map that the firmware reports."""

    pa: int
    length: int
    kind: E820Kind


@dataclass(frozen=True, slots=True)
class Boot:
    """What to start with what."""

    kernel: ElfImage
    command_line: str = ""
    initrd: bytes = field(default=b"", repr=False)
    setup: SetupHeader | None = None
    """Of the bzImage whose own code `kernel` is."""


def memory_map(ram_len: int) -> tuple[E820Entry, ...]:
    """The map of a PC; the hole below 1 MiB is partly reserved, partly not mentioned."""
    return (
        E820Entry(0, BIOS_DATA_PA, E820Kind.RAM),
        E820Entry(BIOS_DATA_PA, LOW_END_PA - BIOS_DATA_PA, E820Kind.RESERVED),
        E820Entry(BIOS_PA, HIGH_PA - BIOS_PA, E820Kind.RESERVED),
        E820Entry(HIGH_PA, ram_len - HIGH_PA, E820Kind.RAM),
    )


def load(memory: GuestMemory, boot: Boot) -> None:
    """Put kernel, initrd, command line, zero page and a flat GDT into memory.

    Raises InputNotUnderstood if something does not fit.
    """
    kernel_end_pa = _load_kernel(memory, boot.kernel)
    initrd_pa = _load_initrd(memory, boot, kernel_end_pa)
    line = boot.command_line.encode()
    if len(line) > MAX_COMMAND_LINE_LEN:
        raise InputNotUnderstood(
            f"the command line has {len(line)} bytes",
            hint=f"Linux takes {MAX_COMMAND_LINE_LEN}",
        )
    memory.load(COMMAND_LINE_PA, line + b"\0")
    memory.load(ZERO_PAGE_PA, _zero_page(memory.ram_len, boot, initrd_pa))
    descriptors = (0, 0, _descriptor(_FLAT_CODE), _descriptor(_FLAT_DATA))
    memory.load(GDT_PA, struct.pack("<4Q", *descriptors))


def enter(registers: RegisterFile, boot: Boot) -> None:
    """The CPU as the kernel finds it: protected mode, flat segments, no paging, no interrupts."""
    registers.cr0 = registers.cr0 | Cr0.PE
    registers.cr4 = 0  # Unicorn begins with features that its CPUID does not show
    registers.hflags |= HFlag.PE
    registers.gdtr = (GDT_PA, 31)
    registers.idtr = (0, 0)
    # Unicorn ends the process at a stack switch through a task register that is busy or not there.
    registers.tr = Segment(0, 0, 0, _AVAILABLE_TSS)
    registers.set_segment(SegReg.CS, Segment(BOOT_CS, 0, _FLAT_LIMIT, _FLAT_CODE))
    for which in (SegReg.SS, SegReg.DS, SegReg.ES, SegReg.FS, SegReg.GS):
        registers.set_segment(which, Segment(BOOT_DS, 0, _FLAT_LIMIT, _FLAT_DATA))
    registers.cpl = 0
    registers.refresh()
    registers.eflags = Flag.FIXED
    registers.esi = ZERO_PAGE_PA
    registers.eip = boot.kernel.entry


def _load_kernel(memory: GuestMemory, kernel: ElfImage) -> int:
    """All PT_LOAD segments to their physical addresses; returns where the last one ends."""
    end_pa = 0
    for segment in kernel.loads:
        segment_end_pa = segment.pa + max(segment.mem_len, segment.file_len)
        if segment.pa < HIGH_PA or segment_end_pa > memory.ram_len:
            raise InputNotUnderstood(
                f"the segment [{segment.pa:#x}, {segment_end_pa:#x}) does not fit into memory",
                file=kernel.name,
                hint="give the machine more memory (--memory)",
            )
        data = kernel.data[segment.off : segment.off + segment.file_len]
        memory.load(segment.pa, data)
        end_pa = max(end_pa, segment_end_pa)
    if not end_pa:
        raise InputNotUnderstood("there is nothing to load in it", file=kernel.name)
    return end_pa


def _load_initrd(memory: GuestMemory, boot: Boot, kernel_end_pa: int) -> int:
    """As high as the kernel can reach; returns the address, 0 without an initrd."""
    if not boot.initrd:
        return 0
    end_pa = min(memory.ram_len, INITRD_END_PA)
    initrd_pa = (end_pa - len(boot.initrd)) & -PAGE_LEN
    if initrd_pa < kernel_end_pa:
        raise InputNotUnderstood(
            f"the initial file system has {len(boot.initrd)} bytes, too many for the memory",
            hint="give the machine more memory (--memory)",
        )
    memory.load(initrd_pa, boot.initrd)
    return initrd_pa


def _zero_page(ram_len: int, boot: Boot, initrd_pa: int) -> bytes:
    page = bytearray(PAGE_LEN)
    told = boot.setup or SetupHeader(
        jump=_SHORT_JUMP | header_end(_PROTOCOL) - MAGIC_OFF << 8,
        version=_PROTOCOL,
        cmdline_size=MAX_COMMAND_LINE_LEN,
        initrd_addr_max=INITRD_END_PA - 1,
    )
    header = replace(
        told,
        type_of_loader=_UNKNOWN_LOADER,
        loadflags=LoadFlag.LOADED_HIGH,
        ramdisk_image=initrd_pa,
        ramdisk_size=len(boot.initrd),
        cmd_line_ptr=COMMAND_LINE_PA,
    ).emit()
    page[HEADER_OFF : HEADER_OFF + len(header)] = header
    high_k = (ram_len - HIGH_PA) >> 10
    struct.pack_into("<H", page, _EXT_MEM_K_OFF, min(high_k, _MOST_EXT_MEM_K))
    struct.pack_into("<I", page, _ALT_MEM_K_OFF, high_k)
    entries = memory_map(ram_len)
    page[_E820_COUNT_OFF] = len(entries)
    for i, entry in enumerate(entries):
        place = _E820_OFF + i * _E820_ENTRY.size
        _E820_ENTRY.pack_into(page, place, entry.pa, entry.length, entry.kind)
    return bytes(page)


def _descriptor(high: int) -> int:
    return high << 32 | 0xFFFF

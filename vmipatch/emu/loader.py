# SPDX-License-Identifier: MIT
"""How does a kernel get into memory? As by a boot loader of the 32-bit protocol, from an ELF file,
or, if it has a multiboot header, as vmipatch.emu.multiboot says.

Source: Documentation/x86/boot.rst of Linux, "32-bit BOOT PROTOCOL", and zero-page.rst. The kernel
is entered where its ELF header says, uncompressed; what a bzImage's setup header would have told it
is made up here, unless it is the bzImage's own code that is entered.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from typing import Final

from vmipatch.emu.memory_map import memory_map
from vmipatch.emu.multiboot import BootModule, enter_multiboot, header_of, load_multiboot
from vmipatch.emu.processor.bits import Cr0, Flag, HFlag
from vmipatch.emu.processor.memory import HIGH_PA, PAGE_LEN, GuestMemory
from vmipatch.emu.processor.registers import RegisterFile
from vmipatch.emu.processor.segment import SegmentState, SegReg
from vmipatch.errors import InputNotUnderstood
from vmipatch.image.elf import ElfImage
from vmipatch.image.setup_header import HEADER_OFF, MAGIC_OFF, LoadFlag, SetupHeader, header_end

GDT_PA: Final = 0x99000
"""After the command line: decompressors up to 2.6.19 write from 0x2000 to the zero page."""
ZERO_PAGE_PA: Final = 0x90000
COMMAND_LINE_PA: Final = 0x98000
MAX_COMMAND_LINE_LEN: Final = 2047
INITRD_END_PA: Final = 0x37FE0000
"""Direct-mapped memory of a 3 GiB/1 GiB split ends near there: the initrd must lie below."""
BOOT_CS, BOOT_DS = 0x10, 0x18
MULTIBOOT_CS, MULTIBOOT_DS = 0x08, 0x10
"""The specification leaves the selectors open. A kernel whose GDT has the same two need not load CS
anew, and with other ones its first return from an interrupt faults: QEMU and GRUB 0.97 have these
(pc-bios/optionrom/multiboot.S, stage2/asm.S)."""

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


@dataclass(frozen=True, slots=True)
class Boot:
    """A kernel to start, and what it is given."""

    kernel: ElfImage
    command_line: str = ""
    initrd: bytes = field(default=b"", repr=False)
    setup: SetupHeader | None = None
    """Of the bzImage whose own code `kernel` is."""
    modules: tuple[BootModule, ...] = ()
    """For a multiboot kernel; the initrd comes first among them."""

    @property
    def is_multiboot(self) -> bool:
        """Whether the kernel is loaded as its multiboot header says, and not as Linux is."""
        return self.setup is None and header_of(self.kernel) is not None


def load(memory: GuestMemory, boot: Boot) -> None:
    """Put kernel, initrd, command line, zero page and a flat GDT into memory.

    Raises InputNotUnderstood if something does not fit.
    """
    if boot.is_multiboot:
        initrd = (BootModule(boot.initrd, "initrd"),) if boot.initrd else ()
        load_multiboot(memory, boot.kernel, boot.command_line, (*initrd, *boot.modules))
        _load_descriptors(memory, MULTIBOOT_CS)
        return
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
    _load_descriptors(memory, BOOT_CS)


def _load_descriptors(memory: GuestMemory, code: int) -> None:
    """A GDT with flat segments: the one for code has the selector `code`, data is the next."""
    descriptors = [0, 0, 0, 0]
    descriptors[code >> 3 : (code >> 3) + 2] = _descriptor(_FLAT_CODE), _descriptor(_FLAT_DATA)
    memory.load(GDT_PA, struct.pack("<4Q", *descriptors))


def enter(registers: RegisterFile, boot: Boot) -> None:
    """The CPU as the kernel finds it: protected mode, flat segments, no paging, no interrupts."""
    registers.cr0 = registers.cr0 | Cr0.PE
    registers.cr4 = 0  # Unicorn begins with features that its CPUID does not show
    registers.hflags |= HFlag.PE
    registers.gdtr = (GDT_PA, 31)
    registers.idtr = (0, 0)
    # Unicorn ends the process at a stack switch through a task register that is busy or not there.
    registers.tr = SegmentState(0, 0, 0, _AVAILABLE_TSS)
    code, data = (MULTIBOOT_CS, MULTIBOOT_DS) if boot.is_multiboot else (BOOT_CS, BOOT_DS)
    registers.set_segment(SegReg.CS, SegmentState(code, 0, _FLAT_LIMIT, _FLAT_CODE))
    for which in (SegReg.SS, SegReg.DS, SegReg.ES, SegReg.FS, SegReg.GS):
        registers.set_segment(which, SegmentState(data, 0, _FLAT_LIMIT, _FLAT_DATA))
    registers.cpl = 0
    registers.refresh()
    registers.eflags = Flag.FIXED
    registers.esi = ZERO_PAGE_PA
    registers.eip = boot.kernel.entry
    if boot.is_multiboot:
        enter_multiboot(registers, boot.kernel)


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

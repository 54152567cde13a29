# SPDX-License-Identifier: MIT
"""How does a kernel start another one? A static program that holds it, and asks by kexec_load(2).

What kexec-tools computes for a bzImage is computed here when the program is made: the zero page,
the command line, and a few instructions that enter the kernel by the 32-bit boot protocol (Linux,
Documentation/x86/boot.rst and zero-page.rst).
"""

from __future__ import annotations

import struct
from dataclasses import replace

from tests.support.elfbuilder import DATA, TEXT, ElfBuilder
from vmipatch.image.setup_header import HEADER_OFF, SetupHeader
from vmipatch.isa.assemble import assemble

_PAGE, _MIB = 0x1000, 1 << 20
_TEXT_VA, _DATA_VA = 0x08048000, 0x08100000
_ZERO_PAGE_PA = 0x90000
_LINE_PA, _STUB_PA = _ZERO_PAGE_PA + 0x1000, _ZERO_PAGE_PA + 0x1800
_LOW_END_PA = 0x9F000
_INITRD_ALIGN = 16 * _MIB
"""Coarse, so that kernels of nearly the same size have it at the same place."""
_RESERVED_LEN = _MIB
"""At the end of memory, for the firmware's tables."""
_E820_COUNT_OFF, _E820_OFF = 0x1E8, 0x2D0
_RAM, _OTHER_LOADER = 1, 0xFF

# Paging is off; the segments are flat, their descriptors are gone (machine_kexec_32.c).
_STUB = """
    lgdt [gdtr]
    .byte 0xea                          # far jump
    .long flat
    .word 0x10
flat:
    mov eax, 0x18
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov ss, eax
    mov esi, ZERO_PAGE
    xor ebx, ebx
    xor ebp, ebp
    xor edi, edi
    mov eax, KERNEL
    jmp eax
gdt:
    .long 0, 0, 0, 0
    .long 0x0000ffff, 0x00cf9b00, 0x0000ffff, 0x00cf9300
gdtr:
    .word 31
    .long gdt
"""
_PROGRAM = """
start:
    mov eax, 283                        # kexec_load
    mov ebx, STUB
    mov ecx, 3
    mov edx, SEGMENTS
    xor esi, esi
    int 0x80
    cmp eax, 0
    jne refused
    mov eax, 88                         # reboot
    mov ebx, 0xfee1dead
    mov ecx, 672274793
    mov edx, 0x45584543                 # LINUX_REBOOT_CMD_KEXEC
    int 0x80
refused:
    neg eax
    mov ebx, eax
    mov eax, 1                          # exit
    int 0x80
"""


def program(bzimage: bytes, initrd: bytes, append: str, memory_mib: int) -> bytes:
    """An ELF file that starts `bzimage` on a machine with that much memory.

    It ends only if the kernel refuses, with the error number as its status.
    """
    header = SetupHeader.parse(bzimage)
    kernel_pa = header.pref_address
    initrd_pa = _aligned(kernel_pa + header.init_size, _INITRD_ALIGN)
    low = _low_memory(header, initrd_pa, len(initrd), append, memory_mib)
    parts = ((_ZERO_PAGE_PA, low), (kernel_pa, bzimage[header.code_off :]), (initrd_pa, initrd))
    data, segments = bytearray(_PAGE), []
    for pa, content in parts:
        length = _aligned(len(content), _PAGE)
        segments.append((_DATA_VA + len(data), len(content), pa, length))
        data += content.ljust(length, b"\0")
    for index, segment in enumerate(segments):
        struct.pack_into("<4I", data, 16 * index, *segment)
    names = {"STUB": _STUB_PA, "SEGMENTS": _DATA_VA}
    linked = assemble(_PROGRAM, _TEXT_VA, symbols=names, name="kexec")
    builder = ElfBuilder(entry=linked.labels["start"], physical_offset=0)
    builder.section(".text", _TEXT_VA, linked.code, TEXT)
    builder.section(".data", _DATA_VA, bytes(data), DATA)
    return builder.build()


def _low_memory(
    header: SetupHeader, initrd_pa: int, initrd_len: int, append: str, memory_mib: int
) -> bytes:
    """Zero page, command line and stub."""
    told = replace(
        header,
        type_of_loader=_OTHER_LOADER,
        ramdisk_image=initrd_pa,
        ramdisk_size=initrd_len,
        cmd_line_ptr=_LINE_PA,
    )
    zero_page = bytearray(_PAGE)
    fields = told.emit()
    zero_page[HEADER_OFF : HEADER_OFF + len(fields)] = fields
    ram = ((0, _LOW_END_PA), (_MIB, memory_mib * _MIB - _RESERVED_LEN))
    zero_page[_E820_COUNT_OFF] = len(ram)
    for index, (start_pa, end_pa) in enumerate(ram):
        entry = start_pa, end_pa - start_pa, _RAM
        struct.pack_into("<QQI", zero_page, _E820_OFF + 20 * index, *entry)
    line = append.encode() + b"\0"
    names = {"ZERO_PAGE": _ZERO_PAGE_PA, "KERNEL": header.pref_address}
    stub = assemble(_STUB, _STUB_PA, symbols=names, name="kexec stub").code
    space = _STUB_PA - _LINE_PA
    assert len(line) <= space
    return bytes(zero_page) + line.ljust(space, b"\0") + stub


def _aligned(value: int, align: int) -> int:
    return -(-value // align) * align

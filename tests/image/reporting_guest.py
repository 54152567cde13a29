# SPDX-License-Identifier: MIT
"""What does a kernel find when it is started? A guest of a few instructions that prints it.

Its segments, the zeros between them, a relocated word, registers and boot_params.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tests.support.elfbuilder import DATA, RODATA, TEXT, ElfBuilder
from tests.support.qemu import QemuEnding, boot
from vmipatch.image.elf import ElfImage
from vmipatch.image.setup_header import LoadFlag
from vmipatch.isa.assemble import assemble

PAGE_OFFSET = 0xC0000000
MIB = 1 << 20
INITRD = bytes(range(256)) * 4

GUEST = """
start:
    or ebx, edi
    or ebx, ebp                     # promised to be 0
    mov ecx, esi
    add ecx, 0x1e8                  # scratch words of boot_params, for one call
    mov esp, ecx
    call here
here:
    pop ebp
    sub ebp, here                   # ebp = physical - linked
    lea esp, [ebp + STACK_TOP]
    mov eax, ebp
    add eax, PAGE_OFFSET
    call print                      # distance
    mov eax, ebx
    call print                      # registers
    mov eax, dword ptr [ebp + pointer]
    call print
    movzx eax, byte ptr [esi + 0x211]
    call print                      # loadflags
    mov eax, dword ptr [esi + 0x21c]
    call print                      # ramdisk_size
    movzx eax, byte ptr [esi + 0x1e8]
    call print                      # e820_entries
    movzx eax, byte ptr [esi + 0x7]
    call print                      # text columns
    mov eax, dword ptr [esi + 0x228]
    mov eax, dword ptr [eax]
    call print                      # first letters of the command line
    mov eax, dword ptr [esi + 0x250]
    call print                      # setup_data
    lea edi, [ebp + DATA_VA]
    mov ecx, DATA_WORDS
    call print_sum
    lea edi, [ebp + BSS_VA]
    mov ecx, BSS_WORDS
    call print_sum
    lea edi, [ebp + TAIL_VA]
    mov ecx, TAIL_WORDS
    call print_sum
    mov al, 0xfe                    # reset by the keyboard controller
    out 0x64, al
stop:
    hlt
    jmp stop

print_sum:
    sub eax, eax
next_sum:
    rol eax, 1
    add eax, dword ptr [edi]
    add edi, 4
    dec ecx
    jnz next_sum
print:
    mov edx, eax
    mov ecx, 8
next_digit:
    rol edx, 4
    mov al, dl
    and al, 15
    add al, 0x30
    cmp al, 0x3a
    jb digit
    add al, 0x27
digit:
    call put
    dec ecx
    jnz next_digit
    mov al, 0x20
put:
    push edx
    push eax
    mov edx, 0x3fd
busy:
    in al, dx
    test al, 0x20
    jz busy
    pop eax
    mov edx, 0x3f8
    out dx, al
    pop edx
    ret
pointer:
    .long DATA_VA
"""


@dataclass(frozen=True, slots=True)
class Report:
    """The lines that the guest printed, in its order."""

    distance: int
    registers: int
    pointer: int
    loadflags: int
    ramdisk_len: int
    e820_entries: int
    columns: int
    command_line: int
    setup_data: int
    data_sum: int
    bss_sum: int
    tail_sum: int


@dataclass(frozen=True, slots=True)
class ReportingGuest:
    """A kernel in three segments: code, data with .bss, and a tail after a gap."""

    image: ElfImage
    relocs: tuple[int, ...]
    data_va: int
    data: bytes
    tail: bytes

    @classmethod
    def linked_at(cls, start_pa: int, data_len: int = 3 * MIB) -> ReportingGuest:
        start_va = PAGE_OFFSET + start_pa
        data_va = start_va + 0x2000
        bss_va = data_va + data_len
        tail_va = bss_va + MIB + 0x3000
        words = np.random.default_rng(1).integers(0, 1 << 32, (data_len + 0x10000) // 4, "u4")
        data, tail = words.tobytes()[:data_len], words.tobytes()[data_len:]
        code = assemble(
            GUEST,
            start_va,
            symbols={
                "PAGE_OFFSET": PAGE_OFFSET,
                "STACK_TOP": start_va + 0x2000,
                "DATA_VA": data_va,
                "DATA_WORDS": data_len // 4,
                "BSS_VA": bss_va,
                "BSS_WORDS": MIB // 4,
                "TAIL_VA": tail_va,
                "TAIL_WORDS": len(tail) // 4,
            },
        )
        builder = ElfBuilder(entry=start_pa)
        builder.section(".text", start_va, code.code, TEXT)
        builder.section(".data", data_va, data, DATA)
        builder.nobits(".bss", bss_va, MIB)
        builder.section(".tail", tail_va, tail, RODATA)
        return cls(builder.image(), (code.labels["pointer"],), data_va, data, tail)

    def run(
        self, file: bytes, directory: Path, append: str = "", extra: Sequence[str] = ()
    ) -> Report:
        """Boot `file` in QEMU."""
        kernel, initrd = directory / "kernel", directory / "initrd"
        kernel.write_bytes(file)
        initrd.write_bytes(INITRD)
        result = boot(kernel, initrd, append=append, memory_mib=128, extra=extra, timeout_s=30)
        printed = re.search(r"((?:[0-9a-f]{8} ){12})$", result.console)
        assert printed, str(result)
        assert result.ending is QemuEnding.RESET
        report = Report(*(int(word, 16) for word in printed[1].split()))
        start_pa = self.image.entry + report.distance
        end_pa = max(s.pa + s.mem_len for s in self.image.loads) + report.distance
        assert not start_pa <= report.setup_data < end_pa, "a list that the kernel has overwritten"
        return report

    def expected(self) -> Report:
        """The report that it prints where it was linked."""
        return Report(
            distance=0,
            registers=0,
            pointer=self.data_va,
            loadflags=LoadFlag.LOADED_HIGH,
            ramdisk_len=len(INITRD),
            e820_entries=0,
            columns=80,
            command_line=int.from_bytes(b"cons", "little"),
            setup_data=0,
            data_sum=rolling_sum(self.data),
            bss_sum=0,
            tail_sum=rolling_sum(self.tail),
        )


def rolling_sum(data: bytes) -> int:
    total = 0
    for word in np.frombuffer(data, "<u4").tolist():
        total = ((total << 1 | total >> 31) + word) & 0xFFFFFFFF
    return total


def comparable(report: Report) -> Report:
    """Without what the loader and the firmware decide, once it has been found plausible."""
    assert 3 <= report.e820_entries <= 128
    return replace(report, e820_entries=0, setup_data=0, loadflags=report.loadflags & 3)

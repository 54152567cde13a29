# SPDX-License-Identifier: MIT
"""Does a process keep the segments that it asks the kernel for? Static programs that look.

Thread-local segments (set_thread_area), a table of one's own (modify_ldt), a stack of 16 bits,
where a detour keeps the upper half of ESP (Linux, arch/x86/entry/entry_32.S, espfix), and virtual
8086 mode.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from tests.support.elfbuilder import DATA, TEXT, ElfBuilder
from vmipatch.isa.assemble import assemble

KEPT = 42
"""The exit status if everything was as it should be."""
_LINK_VA = 0x08048000
_DATA_VA = 0x08050000
_DATA_LEN = 0x2000

# struct user_desc (arch/x86/include/uapi/asm/ldt.h): entry, base, limit, flags. Of the flags, 0x51
# is a data segment of 32 bits, in pages, usable; 0x40 one of 16 bits, in bytes.
_FRONT = """
start:
    mov ebp, DATA
    mov dword ptr [ebp + 0x100], 0x600DF00D
    jmp test
failed:
    mov ebx, 1
    jmp leave
passed:
    mov ebx, KEPT
leave:
    mov eax, 1                          # exit
    int 0x80
test:
"""
# Parent and child have other bases in the same entry, and take turns.
_TLS = """
    mov eax, 2                          # fork
    int 0x80
    mov esi, eax
    mov edi, 0x100
    cmp esi, 0
    jne parent
    mov edi, 0x200
    mov dword ptr [ebp + 0x200], 0x600DF00D
parent:
    mov dword ptr [ebp], -1
    add edi, ebp
    mov dword ptr [ebp + 4], edi
    mov dword ptr [ebp + 8], 0xFFFFF
    mov dword ptr [ebp + 12], 0x51
    mov ebx, ebp
    mov eax, 243                        # set_thread_area
    int 0x80
    cmp eax, 0
    jne failed
    mov eax, dword ptr [ebp]
    lea eax, [8*eax + 3]
    mov gs, eax
    mov edi, 200
again:
    mov eax, 158                        # sched_yield
    int 0x80
    cmp dword ptr gs:[0], 0x600DF00D
    jne failed
    dec edi
    jnz again
    cmp esi, 0
    je passed
    mov ebx, esi
    lea ecx, [ebp + 0x40]
    mov edx, 0
    mov eax, 7                          # waitpid
    int 0x80
    cmp dword ptr [ebp + 0x40], KEPT << 8
    jne failed
    jmp passed
"""
_LDT = """
    mov dword ptr [ebp], 0
    lea eax, [ebp + 0x100]
    mov dword ptr [ebp + 4], eax
    mov dword ptr [ebp + 8], 0xFFFFF
    mov dword ptr [ebp + 12], 0x51
    mov ebx, 1
    mov ecx, ebp
    mov edx, 16
    mov eax, 123                        # modify_ldt
    int 0x80
    cmp eax, 0
    jne failed
    mov eax, 7
    mov fs, eax
    mov edi, 200
again:
    mov eax, 158
    int 0x80
    cmp dword ptr fs:[0], 0x600DF00D
    jne failed
    dec edi
    jnz again
    jmp passed
"""
# The loop without a system call is for the timer.
_ESPFIX = """
    mov dword ptr [ebp], 1
    lea eax, [ebp + 0x1000]
    mov dword ptr [ebp + 4], eax
    mov dword ptr [ebp + 8], 0xFFFF
    mov dword ptr [ebp + 12], 0x40
    mov ebx, 1
    mov ecx, ebp
    mov edx, 16
    mov eax, 123
    int 0x80
    cmp eax, 0
    jne failed
    mov edx, ss
    mov ecx, esp
    mov edi, 200
again:
    mov eax, 15
    mov ss, eax
    mov esp, 0x12340800
    mov eax, 20                         # getpid
    int 0x80
    mov ebx, esp
    mov eax, 200000
spin:
    dec eax
    jnz spin_on
    jmp spun
spin_on:
    cmp esp, 0x12340800
    je spin
spun:
    mov esi, esp
    mov ss, edx
    mov esp, ecx
    cmp ebx, 0x12340800
    jne failed
    cmp esi, 0x12340800
    jne failed
    sub edi, 10
    jnz again
    jmp passed
"""
# struct vm86_struct: 17 words of registers, IP the 13th and CS the 14th. Where the mode exists it
# begins at 0, where no memory is: a fault, which kills; elsewhere the call fails.
_VM86 = """
    mov ebx, ebp
    mov eax, 113                        # vm86old
    int 0x80
    cmp eax, 0
    jl passed
    jmp failed
"""


def _program(test: str) -> bytes:
    names = {"DATA": _DATA_VA, "KEPT": KEPT}
    linked = assemble(_FRONT + test, _LINK_VA, symbols=names, name="segments")
    builder = ElfBuilder(entry=linked.labels["start"], physical_offset=0)
    builder.section(".text", _LINK_VA, linked.code, TEXT)
    builder.section(".data", _DATA_VA, bytes(_DATA_LEN), DATA)
    return builder.build()


PROGRAMS: Mapping[str, bytes] = MappingProxyType(
    {
        "thread-local": _program(_TLS),
        "table of its own": _program(_LDT),
        "stack of 16 bits": _program(_ESPFIX),
        "virtual 8086": _program(_VM86),
    }
)

# SPDX-License-Identifier: MIT
"""How do many processes try ports at random? As cases of one small kernel, which QEMU can boot too.

Each case is a few instructions at CPL 3, accesses to ports among them, with registers, IOPL, limit
and bitmap of the TSS of its own. An exception or `int 0x30` ends it; the kernel then writes a line
to the serial port: the vector, and a sum of registers, frame and memory.
"""

from __future__ import annotations

import random
import struct
from typing import Final

from tests.support.elfbuilder import DATA, TEXT, ElfBuilder
from vmipatch.isa.assemble import assemble

CODE_PA, TABLES_PA, TSS_PA, BUFFER_PA, CASES_PA = 0x101000, 0x110000, 0x120000, 0x130000, 0x200000
KERNEL_CS, KERNEL_DS, USER_CS, USER_DS, TSS = 0x08, 0x10, 0x1B, 0x23, 0x28
STACK_PA, USER_STACK_PA = 0x140000, 0x150000
IDT_OFF, GDTR_OFF, IDTR_OFF = 0x100, 0xB00, 0xB10
CASE_LEN, CODE_OFF, BUFFER_LEN = 128, 64, 64
GATES: Final = (1, 3, 6, 11, 12, 13, 0x30)
WITH_CODE: Final = (11, 12, 13)
MAP_LEN: Final = 0x2100
FREE_PORTS: Final = (0x2000, 0x5000)
"""Nothing answers there, in QEMU's PC and in ours."""
FREE_BYTES: Final = (0xE4, 0xE8)
_MULTIBOOT: Final = struct.pack("<3I", 0x1BADB002, 0, -0x1BADB002 & 0xFFFFFFFF)
"""The header by which QEMU knows a kernel other than Linux."""


def kernel(seed: int, count: int) -> bytes:
    """The ELF file of a kernel with `count` cases."""
    rng = random.Random(seed)
    code = assemble(_SOURCE.format(end=CASES_PA + count * CASE_LEN), CODE_PA + len(_MULTIBOOT))
    builder = ElfBuilder(entry=CODE_PA + len(_MULTIBOOT), physical_offset=0)
    builder.section(".text", CODE_PA, _MULTIBOOT + code.code, TEXT, align=4096)
    builder.section(".tables", TABLES_PA, _tables(code.labels), DATA, align=4096)
    builder.section(".tss", TSS_PA, _task(rng), DATA, align=4096)
    cases = b"".join(_case(rng) for _ in range(count))
    builder.section(".cases", CASES_PA, cases, DATA, align=4096)
    return builder.build()


def _tables(labels: dict[str, int]) -> bytes:
    tables = bytearray(0x1000)
    descriptors = (
        0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00CFFB000000FFFF, 0x00CFF3000000FFFF,
        (TSS_PA & 0xFFFFFF) << 16 | 0x89 << 40 | (TSS_PA >> 24) << 56,
    )  # fmt: skip
    struct.pack_into("<6Q", tables, 0, *descriptors)
    for vector in GATES:
        handler_pa = labels[f"vector_{vector}"]
        low = handler_pa & 0xFFFF | KERNEL_CS << 16
        struct.pack_into("<2I", tables, IDT_OFF + 8 * vector, low, handler_pa & 0xFFFF0000 | 0xEE00)
    struct.pack_into("<HI", tables, GDTR_OFF, 0x2F, TABLES_PA)
    struct.pack_into("<HI", tables, IDTR_OFF, 0x7FF, TABLES_PA + IDT_OFF)
    return bytes(tables)


def _task(rng: random.Random) -> bytes:
    """Stack of the kernel, and a bitmap in which whole bytes, halves and single ports are free."""
    patterns = (0, 0, 0, 0xFF, 0xF0, 0x0F, 0x80, 0x01, 0xFE, 0x7F)
    head = struct.pack("<3I", 0, STACK_PA, KERNEL_DS).ljust(0x68, b"\0")
    return head + bytes(rng.choice(patterns) for _ in range(MAP_LEN))


def _case(rng: random.Random) -> bytes:
    iopl = rng.choice((0, 0, 0, 1, 2, 3))
    port = _port(rng, iopl)
    buffer = BUFFER_PA + rng.randrange(8, 40)
    registers = [rng.getrandbits(32) for _ in range(8)]
    registers[1], registers[2] = rng.randrange(4), port | rng.getrandbits(16) << 16
    registers[6], registers[7] = buffer, BUFFER_PA + rng.randrange(8, 40)
    flags = rng.getrandbits(32) & 0xCD5 | 0x202 | iopl << 12
    limit = rng.choice(
        (0x66, 0x67, 0x68, 0x68 + (port >> 3) + rng.randrange(-2, 3), 0x2067, 0x2068)
    )
    map_off = rng.choice((0x68, 0x68, 0x68, 0x69, 0xFFFF))
    if iopl == 3 or (limit >= 0x68 and map_off != 0xFFFF):
        registers[2] &= ~3  # QEMU 7.2 reads 0 where nothing answers and the port is not aligned
    code = b"".join(_instruction(rng) for _ in range(rng.randrange(1, 6))) + b"\xcd\x30"
    head = struct.pack("<11I", *registers, flags, max(0, limit), map_off)
    return head.ljust(CODE_OFF, b"\0") + code.ljust(CASE_LEN - CODE_OFF, b"\x0b")


def _port(rng: random.Random, iopl: int) -> int:
    if iopl < 3 and not rng.randrange(8):
        return rng.choice((0xFFFE, 0xFFFF))  # beyond the last port
    return rng.randrange(*FREE_PORTS)


def _instruction(rng: random.Random) -> bytes:
    """An access to a port two times of three, else something that leaves its traces."""
    if rng.randrange(3):
        opcode = rng.choice(b"\x6c\x6d\x6e\x6f\xe4\xe5\xe6\xe7\xec\xed\xee\xef")
        prefix = b"\x66" * (not rng.randrange(3))
        if opcode < 0x70:
            prefix += rng.choice((b"", b"\xf3", b"\xf2"))
        if 0xE4 <= opcode <= 0xE7:
            return prefix + bytes((opcode, rng.choice(FREE_BYTES)))
        return prefix + bytes((opcode,))
    store = bytes((0x89, 0x05 | rng.randrange(8) << 3)) + struct.pack(
        "<I", BUFFER_PA + rng.randrange(BUFFER_LEN - 4)
    )
    return rng.choice(
        (store, b"\x43", b"\x01\xc3", b"\xf9", b"\xfd", b"\x0f\x0b", b"\xcd\x30", b"\xcc")
    )


_STUBS = "\n".join(
    f"vector_{vector}:\n {'' if vector in WITH_CODE else 'push 0'}\n push {vector}\n jmp ended"
    for vector in GATES
)
_SOURCE = f"""
    cli
    lgdt [{TABLES_PA + GDTR_OFF}]
    lidt [{TABLES_PA + IDTR_OFF}]
    mov eax, {KERNEL_DS}
    mov ss, ax
    mov ds, ax
    mov es, ax
    mov esp, {STACK_PA}
    push {KERNEL_CS}
    mov eax, begin
    push eax
    retf
begin:
    mov al, 0xff
    out 0x21, al
    out 0xa1, al
    mov edx, 0x3f8
    mov al, 10
    out dx, al
    mov ebp, {CASES_PA}
next_case:
    cmp ebp, {{end}}
    jae done
    mov esp, {STACK_PA}
    mov ecx, {BUFFER_LEN}
fill:
    lea eax, [ecx + 0x40]
    mov byte ptr [ecx + {BUFFER_PA - 1}], al
    dec ecx
    jnz fill
    mov eax, [ebp + 36]
    mov word ptr [{TABLES_PA + TSS}], ax
    mov byte ptr [{TABLES_PA + TSS + 5}], 0x89
    mov ax, [ebp + 40]
    mov word ptr [{TSS_PA + 0x66}], ax
    mov eax, {TSS}
    ltr ax
    mov [current], ebp
    push {USER_DS}
    push {USER_STACK_PA}
    push dword ptr [ebp + 32]
    push {USER_CS}
    lea eax, [ebp + {CODE_OFF}]
    push eax
    mov eax, {USER_DS}
    mov ds, ax
    mov es, ax
    mov eax, [ebp]
    mov ecx, [ebp + 4]
    mov edx, [ebp + 8]
    mov ebx, [ebp + 12]
    mov esi, [ebp + 24]
    mov edi, [ebp + 28]
    mov ebp, [ebp + 20]
    iretd

{_STUBS}

ended:
    cld
    pushad
    mov eax, {KERNEL_DS}
    mov ds, ax
    mov es, ax
    and dword ptr [esp + 48], 0xfffeffff
    xor eax, eax
    mov esi, esp
    mov ecx, 15
sum_frame:
    rol eax, 5
    xor eax, [esi]
    add esi, 4
    dec ecx
    jnz sum_frame
    mov esi, {BUFFER_PA}
    mov ecx, {BUFFER_LEN // 4}
sum_buffer:
    rol eax, 5
    xor eax, [esi]
    add esi, 4
    dec ecx
    jnz sum_buffer
    mov ebx, eax
    mov eax, [esp + 32]
    shl eax, 24
    mov ecx, 2
    call print
    mov eax, ebx
    mov ecx, 8
    call print
    mov edx, 0x3f8
    mov al, 10
    out dx, al
    mov ebp, [current]
    add ebp, {CASE_LEN}
    jmp next_case

print:
    rol eax, 4
    mov esi, eax
    and eax, 15
    cmp eax, 10
    jb digit
    add eax, 0x27
digit:
    add eax, 0x30
    mov edx, 0x3f8
    out dx, al
    mov eax, esi
    dec ecx
    jnz print
    ret

done:
    mov al, 0xfe
    out 0x64, al
    hlt
    jmp done
    .p2align 2
current: .long 0
"""

# SPDX-License-Identifier: GPL-2.0-only OR MIT
# How the kernel gets from a multiboot loader to paging and its virtual addresses: headers, the
# physical entry, and the code of the second processor, which is copied below 1 MiB.

#define MULTIBOOT_1 0x1badb002          # Multiboot Specification 0.6.96, chapter 3.1
#define MULTIBOOT_2 0xe85250d6          # Multiboot2 Specification 2.0, chapter 3.1
#define WANTED 3                        # modules at pages, and the size of memory
#define TRAMPOLINE 0x8000               # physical; STARTUP names it by page
#define SECOND_TSS_SEL 0xa0

SECTION(.text)

GLOBAL(multiboot_header)
    .long MULTIBOOT_1, WANTED, 0x100000000 - MULTIBOOT_1 - WANTED

OBJECT(multiboot2_header, 8)
    .long MULTIBOOT_2, 0, 24, 0x100000000 - MULTIBOOT_2 - 24
    .word 0, 0
    .long 8
END(multiboot2_header)

# Data of the code beside it: what lgdt reads at physical addresses.
OBJECT(boot_gdt_descr, 4)
    .word 0xff
    .long gdt - PAGE_OFFSET
END(boot_gdt_descr)

# Where the loader enters, at its physical address. in: EAX = magic number, EBX = information, flat
# segments, paging off, interrupts off; no stack; never returns
FUNC(entry)
    cld
    cli
    mov [loader_magic - PAGE_OFFSET], eax
    lgdt [boot_gdt_descr - PAGE_OFFSET]
    mov eax, KERNEL_DS
    mov ds, eax
    mov es, eax
    mov ss, eax
    jmp_far KERNEL_CS, entry_segments - PAGE_OFFSET
END(entry)

FUNC(entry_segments)
    mov esp, init_stack_top
    mov ebx, kernel_main
    jmp_near switch_on_paging
END(entry_segments)

# Both processors come through here. in: EBX = where to go on, a linked address; never returns
FUNC(switch_on_paging)
    mov eax, cr4
    or eax, 0x10                        # pages of 4 MiB
    mov cr4, eax
    mov eax, boot_directory - PAGE_OFFSET
    mov cr3, eax
    mov eax, cr0
    or eax, 0x80010000
    mov cr0, eax
    jmp ebx
END(switch_on_paging)

# What the second processor executes first is a copy of this at TRAMPOLINE: 16-bit code, 32-bit
# code, and the operand of lgdt. It computes its addresses from its own start.
GLOBAL(second_start)
    .byte 0xfa                          # cli
    .byte 0x66, 0x2e, 0x0f, 0x01, 0x16  # lgdt cs:[...]
    .word second_gdt_descr - second_start
    .byte 0x0f, 0x20, 0xc0              # mov eax, cr0
    .byte 0x0c, 1                       # or al, 1
    .byte 0x0f, 0x22, 0xc0              # mov cr0, eax
    .byte 0x66, 0xea                    # jmp into 32-bit code
    .long second_32 - second_start + TRAMPOLINE
    .word KERNEL_CS
second_32:
    mov eax, KERNEL_DS
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov ebx, second_main
    mov eax, switch_on_paging - PAGE_OFFSET
    jmp eax
second_gdt_descr:
    .word 0xff
    .long gdt - PAGE_OFFSET
GLOBAL(second_end)

SECTION(.data)

# The first 4 MiB, at 0 and at PAGE_OFFSET.
OBJECT(boot_directory, 4096)
    .long 0x83
    .skip 3068
    .long 0x83
    .skip 1020
END(boot_directory)

OBJECT(loader_magic, 4)
    .long 0
END(loader_magic)

# Pages of 4 MiB are there, so CPUID is.
OBJECT(has_cpuid, 4)
    .long 1
END(has_cpuid)

SECTION(.bss)

OBJECT(init_stack, 4096)
    .skip 4096
END(init_stack)
GLOBAL(init_stack_top)

OBJECT(second_stack, 4096)
    .skip 4096
END(second_stack)
GLOBAL(second_stack_top)

# SPDX-License-Identifier: GPL-2.0-only OR MIT
# A guest that knows VMI from its header alone: start and end.
# Loaded at LOAD_PA by a multiboot loader or by Linux's 32-bit protocol; runs at that address, and
# sees physical memory at PAGE_OFFSET too.

header:
    .long 0x1badb002, 0x10000, 0xe4514ffe
    .long header, header, IMAGE_END, 0, start

start:
    mov esp, STACK_TOP
    cld
    call build_tables
    .byte 0x0f, 0x01, 0x15              # lgdt [gdt_operand]
    .long gdt_operand
    .byte 0x0f, 0x01, 0x1d              # lidt [idt_operand]
    .long idt_operand
    mov eax, KERNEL_CS
    push eax
    lea eax, [on_own_gdt]
    push eax
    retf
on_own_gdt:
    mov eax, KERNEL_DS
    mov ss, ax
    mov eax, USER_DS
    mov ds, ax
    mov es, ax
    mov eax, 0
    mov fs, ax
    mov gs, ax
    mov eax, TSS_SELECTOR
    ltr ax
    mov eax, cr4
    or eax, 0x10                        # 4 MiB pages
    mov cr4, eax
    mov eax, DIRECTORY
    mov cr3, eax
    mov eax, cr0
    or eax, 0x80010000                  # paging, write protection
    and eax, 0xfffffff3                 # no TS, no EM
    mov cr0, eax
    call mask_interrupts
    call probe
    cmp dword ptr [rom], 0
    je native                           # refused: as without a ROM
    call activate
native:
    mov eax, cs
    and eax, 3
    mov dword ptr [ring], eax
    SAY("ring %x", eax)
    call all_checks
    call late_checks
    SAY("conformance: %x checks, %x failed", dword ptr [checks], dword ptr [failures])
    mov eax, REBOOT_KIND
    cmp eax, 2
    je shutdown
    VMI(REBOOT)
    SAY("FAIL: Reboot came back")
shutdown:
    VMI(SHUTDOWN)
    SAY("FAIL: Shutdown came back")
finish:
    mov al, 0xfe
    out 0x64, al
    cli
    hlt
    jmp finish

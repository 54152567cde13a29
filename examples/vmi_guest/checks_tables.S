# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Descriptor tables.

table_checks:
    lea eax, [gdt_operand]
    VMI(SET_GDT)
    lea eax, [scratch]
    VMI(GET_GDT)
    CHECK("GDT base", dword ptr [scratch + 2], gdt)
    lea eax, [idt_operand]
    VMI(SET_IDT)
    lea eax, [scratch]
    VMI(GET_IDT)
    CHECK("IDT base", dword ptr [scratch + 2], IDT)
    mov eax, LDT_SELECTOR
    VMI(SET_LDT)
    VMI(GET_LDT)
    CHECK("LDT", eax, LDT_SELECTOR)
    lea eax, [gdt]                      # available again
    mov edx, TSS_SELECTOR / 8
    mov ecx, TSS_LOW
    PUSH(TSS_HIGH)
    VMI(WRITE_GDT_ENTRY)
    lea esp, [esp + 4]
    mov eax, TSS_SELECTOR
    VMI(SET_TR)
    VMI(GET_TR)
    CHECK("TR", eax, TSS_SELECTOR)
    lea eax, [gdt]                      # a segment that begins at a word of ours
    mov edx, 18
    mov ecx, checks_word
    shl ecx, 16
    mov cx, 0xffff
    mov ebx, checks_word
    shr ebx, 16
    and ebx, 0xff
    or ebx, 0x00cff200
    push ebx
    VMI(WRITE_GDT_ENTRY)
    lea esp, [esp + 4]
    mov eax, 0x93
    mov fs, ax
    CHECK("segment of WriteGDTEntry", dword ptr fs:[0], 0x600dc0de)
    mov eax, LDT
    mov edx, 1
    mov ecx, dword ptr [gdt + 8 * 18]
    push dword ptr [gdt + 8 * 18 + 4]
    VMI(WRITE_LDT_ENTRY)
    lea esp, [esp + 4]
    mov eax, 0x0f
    mov fs, ax
    CHECK("segment of WriteLDTEntry", dword ptr fs:[0], 0x600dc0de)
    mov eax, 0
    mov fs, ax
    mov dword ptr [LDT + 8], 0
    mov dword ptr [LDT + 12], 0
    mov eax, LDT                        # some kernels write the LDT by the call for the IDT
    mov edx, 1
    mov ecx, dword ptr [gdt + 8 * 18]
    push dword ptr [gdt + 8 * 18 + 4]
    VMI(WRITE_IDT_ENTRY)
    lea esp, [esp + 4]
    mov eax, 0x0f
    mov fs, ax
    CHECK("segment of WriteIDTEntry", dword ptr fs:[0], 0x600dc0de)
    mov eax, 0
    mov fs, ax
    mov eax, IDT
    mov edx, 0x50
    lea ecx, [gate_handler]
    and ecx, 0xffff
    or ecx, KERNEL_CS * 0x10000
    lea ebx, [gate_handler]
    and ebx, 0xffff0000
    or ebx, 0x8e00
    push ebx
    VMI(WRITE_IDT_ENTRY)
    lea esp, [esp + 4]
    mov ebx, 0
    int 0x50
    CHECK("gate of WriteIDTEntry", ebx, 0x50)
    ret

gate_handler:
    mov ebx, 0x50
    VMI_RAW(IRET)

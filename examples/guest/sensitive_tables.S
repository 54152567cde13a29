# SPDX-License-Identifier: GPL-2.0-only OR MIT
# What the descriptor-table registers hold: LGDT, LIDT, SGDT, SIDT, LLDT, SLDT, LTR, STR; and what
# the protection checks answer: LAR, LSL, VERR, VERW, ARPL.
# Addresses move with every link: only whether they are the ones loaded is printed.

SECTION(.init.text)

FUNC(observe_tables)
    mov ecx, gdt_descr
    lgdt [ecx]
    lidt [idt_descr]
    mov ecx, table_register
    sgdt [ecx]
    mov eax, [table_register + 2]
    xor ecx, ecx
    cmp eax, [gdt_descr + 2]
    sete cl
    movzx edx, word ptr [table_register]
    REPORT("sgdt: base as loaded: %y limit %x", ecx, edx)
    sidt [table_register]
    mov eax, [table_register + 2]
    xor ecx, ecx
    cmp eax, [idt_descr + 2]
    sete cl
    movzx edx, word ptr [table_register]
    REPORT("sidt: base as loaded: %y limit %x", ecx, edx)

    # The register forms fill 32 bits, the memory forms 16.
    sldt eax
    mov dword ptr [table_register], 0xcccccccc
    sldt word ptr [table_register]
    REPORT("sldt: %x in memory %x", eax, [table_register])
    xor eax, eax
    lldt ax
    sldt ebx
    mov ecx, LDT_SEL
    lldt cx
    sldt ecx
    REPORT("lldt: null %x again %x", ebx, ecx)
    str eax
    mov ecx, table_register
    mov dword ptr [ecx], 0xcccccccc
    str word ptr [ecx]
    REPORT("str: %x in memory %x", eax, [table_register])

    # A TSS that is loaded is busy; make it available before it is loaded again.
    and byte ptr [gdt + TSS_SEL + 5], 0xfd
    ltr word ptr [tss_selector]
    str eax
    REPORT("ltr: again %x", eax)
    mov eax, NO_FAULT
    mov ecx, BEYOND_SEL
    EX_NEXT lldt cx
    REPORT("lldt: a selector beyond the table: vector %x error %x", eax, [last_error])

    jmp observe_checks
END(observe_tables)

# Descriptors of ring 3, whose DPL no hypervisor has a reason to change, are printed whole; of a
# kernel descriptor DPL and limit are masked, and whether it is accessed.
FUNC(observe_checks)
    mov ecx, USER_DS
    lar eax, ecx
    setz bl
    movzx ebx, bl
    and eax, 0xf0ff00                   # bits 16-19 are undefined
    REPORT("lar: user data: %y %x", ebx, eax)
    mov ecx, KERNEL_CS
    lar eax, ecx
    setz bl
    movzx ebx, bl
    and eax, 0xc09a00
    REPORT("lar: kernel code: %y %x", ebx, eax)
    mov ecx, BEYOND_SEL
    mov eax, 0x1234
    lar eax, ecx
    setz bl
    movzx ebx, bl
    REPORT("lar: beyond the table: %y %x", ebx, eax)
    mov ecx, SMALL_SEL
    lsl eax, ecx
    setz bl
    movzx ebx, bl
    REPORT("lsl: small data: %y %x", ebx, eax)
    mov ecx, 0
    mov eax, 0x1234
    lsl eax, ecx
    setz bl
    movzx ebx, bl
    REPORT("lsl: null: %y %x", ebx, eax)
    mov ecx, KERNEL_DS
    verr cx
    setz bl
    movzx ebx, bl
    verw word ptr [user_ds_selector]
    setz dl
    movzx edx, dl
    mov ecx, KERNEL_CS
    verw cx
    setz al
    movzx eax, al
    REPORT("verr: kernel data: %y verw: user data: %y kernel code: %y", ebx, edx, eax)
    mov eax, 0x60
    mov ecx, 0x73
    arpl ax, cx
    setz bl
    movzx ebx, bl
    arpl cx, ax
    setz dl
    movzx edx, dl
    REPORT("arpl: %y %x then %y %x", ebx, eax, edx, ecx)
    ret
END(observe_checks)

SECTION(.data)

OBJECT(table_register, 4)
    .long 0, 0
END(table_register)

OBJECT(tss_selector, 2)
    .word TSS_SEL
END(tss_selector)

OBJECT(user_ds_selector, 2)
    .word USER_DS
END(user_ds_selector)

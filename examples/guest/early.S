# SPDX-License-Identifier: GPL-2.0-only OR MIT
# What answers an exception before trap_init: nine bytes a vector, then the exception table.

SECTION(.init.text)

# Each entry is 9 bytes; vectors with an error code of the CPU's own save the first push.
FUNC(early_idt_handler_array)
    .set vector, 0
    .rept 32
    .if (0x227d00 >> vector) & 1
    .else
    .byte 0x6a, 0
    .endif
    .byte 0x6a, vector
    .byte 0xe9
    .long early_idt_handler_common - . - 4
    .if (0x227d00 >> vector) & 1
    .byte 0xcc, 0xcc
    .endif
    .set vector, vector + 1
    .endr
END(early_idt_handler_array)

# in: vector, error code, EIP, CS, EFLAGS on the stack; all registers are kept
FUNC(early_idt_handler_common)
    cld
    pushad
    mov eax, [esp + 40]
    call search_extable
    test eax, eax
    jz .Learly_panic
    mov edx, [eax + 4]
    lea edx, [eax + edx + 4]
    mov [esp + 40], edx
    cmp dword ptr [eax + 8], 2
    jne .Learly_fixed
    mov eax, [esp + 32]
    mov [esp + 28], eax
.Learly_fixed:
    popad
    add esp, 8
    iretd
.Learly_panic:
    mov eax, [esp + 32]
    REPORT("PANIC: early vector %x", eax)
    jmp machine_halt
END(early_idt_handler_common)

# C code's first function: console, banner, the boot protocol's parameters.
FUNC(i386_start_kernel)
    call console_init
    REPORT("GUEST i386 kernel, all sensitive instructions")
    xor eax, eax
    cmp dword ptr [boot_params + 0x202], 0x53726448
    sete al
    REPORT("boot: setup header is there: %y", eax)
    mov eax, NO_FAULT
    EX_NEXT ud2
    REPORT("boot: early fault was fixed up: vector %x", eax)
    jmp_near start_kernel
END(i386_start_kernel)

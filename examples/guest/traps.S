# SPDX-License-Identifier: GPL-2.0-only OR MIT
# What happens at an exception: entry stubs, one dispatcher, and the handlers by vector.

SECTION(.text)

.macro EXCEPTION vector
    push 0
    push \vector
    jmp common_exception
.endm

.macro EXCEPTION_WITH_ERROR vector
    push \vector
    jmp common_exception
.endm

GLOBAL(__entry_text_start)

FUNC(asm_exc_divide_error)
    EXCEPTION 0
END(asm_exc_divide_error)

FUNC(asm_exc_debug)
    EXCEPTION 1
END(asm_exc_debug)

FUNC(asm_exc_int3)
    EXCEPTION 3
END(asm_exc_int3)

FUNC(asm_exc_overflow)
    EXCEPTION 4
END(asm_exc_overflow)

FUNC(asm_exc_bounds)
    EXCEPTION 5
END(asm_exc_bounds)

FUNC(asm_exc_invalid_op)
    EXCEPTION 6
END(asm_exc_invalid_op)

FUNC(asm_exc_device_not_available)
    EXCEPTION 7
END(asm_exc_device_not_available)

# Save everything, call the handler of the vector with EAX = frame, and go back.
FUNC(common_exception)
    SAVE_ALL
    mov eax, esp
    mov ecx, [esp + REG_VECTOR]
    call dword ptr [trap_handlers + ecx * 4]
    jmp return_from_trap
END(common_exception)

FUNC(asm_exc_invalid_tss)
    EXCEPTION_WITH_ERROR 10
END(asm_exc_invalid_tss)

FUNC(asm_exc_segment_not_present)
    EXCEPTION_WITH_ERROR 11
END(asm_exc_segment_not_present)

FUNC(asm_exc_stack_segment)
    EXCEPTION_WITH_ERROR 12
END(asm_exc_stack_segment)

FUNC(asm_exc_general_protection)
    EXCEPTION_WITH_ERROR 13
END(asm_exc_general_protection)

FUNC(asm_exc_page_fault)
    EXCEPTION_WITH_ERROR 14
END(asm_exc_page_fault)

FUNC(asm_exc_alignment_check)
    EXCEPTION_WITH_ERROR 17
END(asm_exc_alignment_check)

# The one way out of the kernel that ends in iret. A frame that iret refuses ends the user task.
FUNC(return_from_trap)
    RESTORE_ALL
    EX(asm_iret_error) iretd
asm_iret_error:
    mov eax, PERCPU_SEL
    mov fs, eax
    REPORT("user: iret was refused: vector %x error %x", [last_vector], [last_error])
    jmp user_exit
END(return_from_trap)

# int 0x82: EAX + 1; a gate that only the kernel may use.
FUNC(asm_kernel_call)
    inc eax
    iretd
END(asm_kernel_call)

GLOBAL(__entry_text_end)

# A trap that goes on after its instruction: count it.
# in: EAX = frame; clobbers ECX
FUNC(do_count)
    mov ecx, [eax + REG_VECTOR]
    inc dword ptr [trap_counts + ecx * 4]
    ret
END(do_count)

# Single step: count it and clear DR6.
# in: EAX = frame; clobbers ECX, EDX
FUNC(do_debug)
    mov ecx, dr6
    test ecx, 0x4000
    jz .Lnot_a_step
    inc dword ptr [trap_counts + 4]
.Lnot_a_step:
    mov ecx, 0xffff0ff0
    mov dr6, ecx
    ret
END(do_debug)

# First floating-point instruction since TS was set. From the kernel it is a fault like others.
# in: EAX = frame
FUNC(do_device_not_available)
    test byte ptr [eax + REG_CS], 2
    jz do_fault
    clts
    fninit
    inc dword ptr [trap_counts + 28]
    ret
END(do_device_not_available)

# Page fault: a page of the demand region for the user, else a fault.
# in: EAX = frame
FUNC(do_page_fault)
    mov edx, cr2
    mov [last_cr2], edx
    test byte ptr [eax + REG_CS], 2
    jz do_fault
    cmp edx, DEMAND_BASE
    jb do_fault
    cmp edx, DEMAND_END
    jae do_fault
    test byte ptr [eax + REG_ERROR], 1
    jnz do_fault
    jmp map_demand_page
END(do_page_fault)

# A fault: the kernel's go through the exception table; the user's are skipped by the length
# that was announced, and leave the vector in EAX and the error code in EDX.
# in: EAX = frame; clobbers EAX, ECX, EDX
FUNC(do_fault)
    push ebx
    mov ebx, eax
    mov ecx, [ebx + REG_VECTOR]
    mov [last_vector], ecx
    mov edx, [ebx + REG_ERROR]
    mov [last_error], edx
    test byte ptr [ebx + REG_CS], 2
    jnz .Lfrom_user
    mov eax, ebx
    call fixup_exception
    test eax, eax
    jz .Lpanic
    pop ebx
    ret
.Lfrom_user:
    mov eax, [user_skip]
    test eax, eax
    jz .Lpanic
    add [ebx + REG_IP], eax
    mov [ebx + REG_AX], ecx
    mov [ebx + REG_DX], edx
    mov dword ptr [user_skip], 0
    pop ebx
    ret
.Lpanic:
    REPORT("PANIC: vector %x error %x", [last_vector], [last_error])
    jmp machine_halt
END(do_fault)

SECTION(.init.text)

# Fill the IDT from a table. Clobbers EAX, ECX, EDX, ESI.
FUNC(trap_init)
    mov esi, idt_gates
.Lnext_gate_row:
    lodsd
    mov ecx, eax
    lodsd
    mov edx, eax
    lodsd
    call set_gate
    cmp esi, idt_gates_end
    jb .Lnext_gate_row
    lidt [idt_descr]
    ret
END(trap_init)

SECTION(.init.data)

OBJECT(idt_gates, 4)
    .long 0x00, 0x8e00, asm_exc_divide_error
    .long 0x01, 0x8e00, asm_exc_debug
    .long 0x03, 0xef00, asm_exc_int3
    .long 0x04, 0xef00, asm_exc_overflow
    .long 0x05, 0x8e00, asm_exc_bounds
    .long 0x06, 0x8e00, asm_exc_invalid_op
    .long 0x07, 0x8e00, asm_exc_device_not_available
    .long 0x0a, 0x8e00, asm_exc_invalid_tss
    .long 0x0b, 0x8e00, asm_exc_segment_not_present
    .long 0x0c, 0x8e00, asm_exc_stack_segment
    .long 0x0d, 0x8e00, asm_exc_general_protection
    .long 0x0e, 0x8e00, asm_exc_page_fault
    .long 0x11, 0x8e00, asm_exc_alignment_check
    .long 0x80, 0xef00, entry_INT80_32
    .long 0x82, 0x8e00, asm_kernel_call
    .long 0xf0, 0x8e00, asm_call_function
END(idt_gates)
GLOBAL(idt_gates_end)

SECTION(.rodata)

OBJECT(trap_handlers, 4)
    .long do_fault, do_debug, do_fault, do_count, do_count, do_fault, do_fault
    .long do_device_not_available, do_fault, do_fault, do_fault, do_fault, do_fault, do_fault
    .long do_page_fault, do_fault, do_fault, do_fault
END(trap_handlers)

SECTION(.bss)

OBJECT(trap_counts, 4)
    .skip 128
END(trap_counts)

OBJECT(last_vector, 4)
    .skip 4
END(last_vector)

OBJECT(last_error, 4)
    .skip 4
END(last_error)

OBJECT(last_cr2, 4)
    .skip 4
END(last_cr2)

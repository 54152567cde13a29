# SPDX-License-Identifier: GPL-2.0-only OR MIT
# What far transfers do: CALL and JMP, direct and through memory, and RETF in both forms.
# Each selector is written with RPL 0.

SECTION(.text)

# Clobbers all but ESP.
FUNC(observe_far)
    mov ebx, esp
    call_far KERNEL_CS, far_function
    REPORT("call far direct: answer %x", eax)
    mov dword ptr [code_pointer], far_function
    call fword ptr [code_pointer]
    REPORT("call far through memory: answer %x", eax)
    push 0x77
    push 0x66
    call_far KERNEL_CS, far_function_with_arguments
    REPORT("call far, retf imm16: answer %x", eax)
    jmp_far KERNEL_CS, far_jump_target
    ud2
far_jump_target:
    REPORT("jmp far direct: done")
    mov dword ptr [code_pointer], far_memory_target
    mov eax, code_pointer
    jmp fword ptr [eax]
    ud2
far_memory_target:
    REPORT("jmp far through memory: done")
    push KERNEL_CS
    push_label retf_target
    retf
    ud2
retf_target:
    push 0x55
    push 0x44
    push KERNEL_CS
    push_label retf_imm_target
    retf 8
    ud2
retf_imm_target:
    xor eax, eax
    cmp ebx, esp
    sete al
    REPORT("retf: stack as before: %y", eax)
    mov eax, NO_FAULT
    mov dword ptr [code_pointer + 4], BEYOND_SEL
    EX_NEXT call fword ptr [code_pointer]
    REPORT("call far: beyond the table: vector %x error %x", eax, [last_error])
    mov eax, NO_FAULT
    EX_NEXT jmp fword ptr [code_pointer]
    REPORT("jmp far: beyond the table: vector %x error %x", eax, [last_error])
    mov dword ptr [code_pointer + 4], KERNEL_CS
    ret
END(observe_far)

# out: EAX = the CS that was pushed, with RPL 0
FUNC(far_function)
    mov eax, [esp + 4]
    and eax, 0xfffc
    retf
END(far_function)

# in: two arguments, taken off; out: EAX = their sum
FUNC(far_function_with_arguments)
    mov eax, [esp + 8]
    add eax, [esp + 12]
    retf 8
END(far_function_with_arguments)

SECTION(.data)

OBJECT(code_pointer, 4)
    .long 0
    .long KERNEL_CS
END(code_pointer)

# SPDX-License-Identifier: GPL-2.0-only OR MIT
# The ways out of the kernel: IRET to either ring, IRET by a bad frame, SYSEXIT.

return_checks:
    mov dword ptr [TSS + 4], OTHER_STACK
    mov eax, TSS                        # as the specification has it; the kernels pass a selector
    mov edx, OTHER_STACK
    VMI(UPDATE_KERNEL_STACK)
    mov eax, KERNEL_DS
    mov edx, OTHER_STACK
    VMI(UPDATE_KERNEL_STACK)
    pushfd                              # to the same ring, IF from the frame
    or dword ptr [esp], 0x200
    mov eax, cs
    push eax
    lea eax, [same_ring]
    push eax
    VMI_RAW(IRET)
    SAY("FAIL: IRET came back")
same_ring:
    VMI(GET_INTERRUPT_MASK)
    CHECK("IF of IRET's frame", eax, 0x200)
    VMI(DISABLE_INTERRUPTS)
    mov dword ptr [resume_esp], esp
    lea eax, [back_from_iret]
    mov dword ptr [resume_user], eax
    PUSH(USER_DS)
    PUSH(USER_STACK)
    PUSH(0x202)
    PUSH(USER_CS)
    lea eax, [user_code]
    push eax
    VMI_RAW(IRET)
back_from_iret:
    CHECK("ring of the user", dword ptr [user_cs], USER_CS)
    CHECK("stack of the user", dword ptr [user_stack], USER_STACK)
    CHECK("stack of UpdateKernelStack", dword ptr [user_esp], OTHER_STACK - 20)
    mov eax, dword ptr [user_flags]
    and eax, 0x3200
    CHECK("IF and IOPL of the user", eax, 0x200)
    VMI(GET_INTERRUPT_MASK)
    CHECK("IF after an interrupt gate", eax, 0)
    mov eax, 0x3000
    VMI(SET_IOPL_MASK)
    mov dword ptr [resume_esp], esp
    lea eax, [back_with_iopl]
    mov dword ptr [resume_user], eax
    PUSH(USER_DS)
    PUSH(USER_STACK)
    PUSH(0x3202)
    PUSH(USER_CS)
    lea eax, [user_code]
    push eax
    VMI_RAW(IRET)
back_with_iopl:
    mov eax, dword ptr [user_flags]
    and eax, 0x3000
    CHECK("IOPL of SetIOPLMask", eax, 0x3000)
    mov eax, 0
    VMI(SET_IOPL_MASK)
    cmp dword ptr [ring], 0             # a bad frame: at CPL 0 the fault is in the ROM
    je no_bad_frame
    cmp dword ptr [rom], 0              # and without one, where the kernel's pointer points
    je no_bad_frame
    mov dword ptr [resume_esp], esp
    lea eax, [bad_frame]
    mov dword ptr [resume], eax
    PUSH(USER_DS)
    PUSH(USER_STACK)
    PUSH(0x202)
    PUSH(0xfff3)
    PUSH(0)
    mov dword ptr [scratch], esp
    SITE(IRET, bad_site)
bad_frame:
    CHECK("vector of a bad frame", dword ptr [fault_vector], 13)
    CHECK("error of a bad frame", dword ptr [fault_error], 0xfff0)
    CHECK("place of a bad frame", dword ptr [fault_eip], bad_site)
    mov eax, dword ptr [scratch]
    CHECK("stack of a bad frame", dword ptr [fault_esp], eax)
    VMI(GET_INTERRUPT_MASK)
    CHECK("IF after a bad frame", eax, 0)
no_bad_frame:
    cmp dword ptr [rom], 0
    jne sysexit_check
    mov eax, 1
    mov ecx, 0
    cpuid
    test edx, 0x800                     # without a ROM, only where the processor has it
    jz no_sysexit
sysexit_check:
    mov dword ptr [resume_esp], esp
    lea eax, [back_from_sysexit]
    mov dword ptr [resume_user], eax
    lea edx, [user_code]
    mov ecx, USER_STACK - 64
    VMI_RAW(SYSEXIT)
back_from_sysexit:
    CHECK("ring after SYSEXIT", dword ptr [user_cs], USER_CS)
    CHECK("stack after SYSEXIT", dword ptr [user_stack], USER_STACK - 64)
    mov eax, dword ptr [user_flags]
    and eax, 0x200
    CHECK("IF after SYSEXIT", eax, 0x200)
no_sysexit:
    ret

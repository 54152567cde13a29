# SPDX-License-Identifier: GPL-2.0-only OR MIT
# How ring 3 is entered and asks for something: int 0x80, sysenter, the calls themselves.
# Call number in EAX, arguments in EBX and ECX, result in EAX.

#define SYSENTER_RETURN USER_BASE + 0x20
#define EFAULT_RESULT 0xfffffff2
#define ENOSYS_RESULT 0xffffffda

SECTION(.text)

FUNC(entry_INT80_32)
    push 0
    push -1
    SAVE_ALL
    mov eax, esp
    call do_syscall
    jmp_near return_from_trap
END(entry_INT80_32)

# in: EBP = the user's ESP, interrupts off; ESP was loaded from an MSR
FUNC(entry_SYSENTER_32)
    push USER_DS
    push ebp
    pushfd
    or dword ptr [esp], FLAG_IF
    push USER_CS
    push SYSENTER_RETURN
    push 0
    push -1
    SAVE_ALL
    mov eax, esp
    call do_syscall
    mov edx, [esp + REG_IP]
    mov ecx, [esp + REG_SP]
    mov ebx, [esp + REG_BX]
    mov eax, [esp + REG_AX]
    mov ebp, [esp + 20]
    mov esi, [esp + 12]
    mov edi, [esp + 16]
    lea esp, [esp + REG_DS]
    pop ds
    pop es
    pop fs
    pop gs
    # The user's flags but for IF, which comes with the sti.
    and dword ptr [esp + 16], 0xfffffdff
    lea esp, [esp + 16]
    popfd
    sti
    sysexit
END(entry_SYSENTER_32)

# in: EAX = frame, whose EAX becomes the result; clobbers EAX, ECX, EDX
FUNC(do_syscall)
    sti
    push ebx
    mov ebx, eax
    mov ecx, [ebx + REG_AX]
    mov eax, ENOSYS_RESULT
    cmp ecx, 10
    jae .Lno_such_call
    mov eax, ebx
    call dword ptr [sys_call_table + ecx * 4]
.Lno_such_call:
    mov [ebx + REG_AX], eax
    pop ebx
    cli
    ret
END(do_syscall)

# exit: back into run_user. in: EAX = frame; does not return
FUNC(sys_exit)
    jmp user_exit
END(sys_exit)

# say(text, value): print a text of the user and a number. in: EAX = frame; out: EAX = 0, -EFAULT
FUNC(sys_say)
    push esi
    push edi
    mov esi, [eax + REG_BX]
    push dword ptr [eax + REG_CX]
    mov edi, user_text
    mov ecx, 79
    cmp esi, PAGE_OFFSET
    jae say_fault
.Lcopy_text:
    EX(say_fault) lodsb
    stosb
    test al, al
    jz .Ltext_copied
    loop .Lcopy_text
    mov byte ptr [edi], 0
.Ltext_copied:
    mov esi, user_text
    call serial_puts
    pop eax
    push eax
    REPORT(" %x", eax)
    xor eax, eax
    jmp .Lsay_done
say_fault:
    mov eax, EFAULT_RESULT
.Lsay_done:
    pop ecx
    pop edi
    pop esi
    ret
END(sys_say)

# skip(length): the next fault of ring 3 goes on that far after its instruction.
FUNC(sys_skip)
    mov ecx, [eax + REG_BX]
    mov [user_skip], ecx
    xor eax, eax
    ret
END(sys_skip)

# ticks(word): count the ticks that arrive in ring 3 in a word of the user; 0 ends it.
FUNC(sys_ticks)
    mov ecx, [eax + REG_BX]
    mov [user_ticks], ecx
    xor eax, eax
    ret
END(sys_ticks)

# traps(vector): how many traps of a vector were counted.
FUNC(sys_traps)
    mov ecx, [eax + REG_BX]
    and ecx, 31
    mov eax, [trap_counts + ecx * 4]
    ret
END(sys_traps)

# demand(): how many pages were mapped on demand.
FUNC(sys_demand)
    mov eax, [demand_count]
    ret
END(sys_demand)

# set_tls(base): a descriptor is rewritten while its table is in use; out: EAX = selector
FUNC(sys_set_tls)
    mov eax, [eax + REG_BX]
    mov edx, gdt + TLS_SEL
    call set_descriptor_base
    mov eax, TLS_SEL
    ret
END(sys_set_tls)

# tsd(on): forbid or allow RDTSC in ring 3, if there is one; out: EAX = whether that was possible
FUNC(sys_tsd)
    mov ecx, [eax + REG_BX]
    xor eax, eax
    test dword ptr [cpu_features], 0x10
    jz .Lno_tsd
    mov edx, cr4
    and edx, 0xfffffffb
    jecxz .Ltsd_off
    or edx, CR4_TSD
.Ltsd_off:
    mov cr4, edx
    inc eax
.Lno_tsd:
    ret
END(sys_tsd)

# set_ts(): the next floating-point instruction of ring 3 raises #NM.
FUNC(sys_set_ts)
    mov eax, cr0
    or eax, CR0_TS
    mov cr0, eax
    xor eax, eax
    ret
END(sys_set_ts)

# break_cs(): the way back to ring 3 is given a selector that does not exist.
FUNC(sys_break_cs)
    mov dword ptr [eax + REG_CS], BEYOND_SEL + 3
    xor eax, eax
    ret
END(sys_break_cs)

# Copy the user's program to its page, allow sysenter, and enter ring 3. Comes back at user_exit.
FUNC(run_user)
    pushad
    mov [kernel_sp], esp
    mov esi, user_image
    mov edi, user_code_page
    mov ecx, user_image_end
    sub ecx, esi
    rep movsb
    lea eax, [esp - 64]
    mov [tss + 4], eax
    test dword ptr [cpu_features], 0x800
    jz .Lno_sysenter
    xor edx, edx
    mov ecx, 0x174
    mov eax, KERNEL_CS
    wrmsr
    mov ecx, 0x175
    lea eax, [esp - 64]
    wrmsr
    mov ecx, 0x176
    mov eax, entry_SYSENTER_32
    wrmsr
    rdmsr
    xor eax, entry_SYSENTER_32
    or eax, edx
    jnz .Lbad_msr
.Lno_sysenter:
    cli
    push USER_DS
    push USER_STACK
    push 0x202
    push USER_CS
    push USER_BASE
    mov eax, USER_DS
    mov ds, eax
    mov es, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    iretd
.Lbad_msr:
    REPORT("PANIC: an MSR does not keep its value")
    jmp machine_halt
END(run_user)

# Leave ring 3 for good: return from run_user. Interrupts are on again.
FUNC(user_exit)
    mov esp, [kernel_sp]
    sti
    popad
    REPORT("user: ended")
    ret
END(user_exit)

SECTION(.rodata)

OBJECT(sys_call_table, 4)
    .long sys_exit, sys_say, sys_skip, sys_ticks, sys_traps, sys_demand, sys_set_tls, sys_tsd
    .long sys_set_ts, sys_break_cs
END(sys_call_table)

SECTION(.bss)

OBJECT(user_skip, 4)
    .skip 4
END(user_skip)

OBJECT(user_text, 4)
    .skip 80
END(user_text)

OBJECT(kernel_sp, 4)
    .skip 4
END(kernel_sp)

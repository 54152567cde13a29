# SPDX-License-Identifier: MIT
#
# What do signals and faults of a process have to do?

# A signal that we send to ourselves is handled before the call returns.
step_signals:
    mov dword ptr [handled], 0
    mov ebx, 10                     # SIGUSR1
    mov eax, on_signal
    call handle
    mov eax, sys_getpid
    call sys
    mov esi, eax
    mov edi, 20
raise:
    mov ebx, esi
    mov ecx, 10
    mov eax, sys_kill
    call sys
    dec edi
    jnz raise
    mov eax, dword ptr [handled]
    sub eax, 20
    ret
on_signal:
    inc dword ptr [handled]
    ret

# Let EAX handle signal EBX. Clobbers EAX, ECX, EDX.
handle:
    mov dword ptr [action], eax
    mov dword ptr [action + 4], 0
    mov dword ptr [action + 8], sa_restorer + sa_nodefer
    mov eax, restore
    mov dword ptr [action + 12], eax
    mov ecx, action
    xor edx, edx
    mov eax, sys_sigaction
    jmp sys
restore:
    pop eax
    mov eax, sys_sigreturn
    int 0x80

# The kernel tells which fault it was, of which address, and goes on where the handler says.
step_faults:
    mov eax, on_fault
    mov ebx, 11                     # SIGSEGV
    call handle
    mov eax, on_fault
    mov ebx, 8                      # SIGFPE
    call handle
    mov eax, on_fault
    mov ebx, 4                      # SIGILL
    call handle
    mov eax, on_fault
    mov ebx, 5                      # SIGTRAP
    call handle
    mov eax, after_page
    mov dword ptr [resume], eax
    mov dword ptr [0x14], eax
    ud2
after_page:
    cmp dword ptr [trap], 14
    jne failed
    cmp dword ptr [fault_va], 0x14
    jne failed
    mov eax, after_divide
    mov dword ptr [resume], eax
    xor ecx, ecx
    xor edx, edx
    div ecx
after_divide:
    cmp dword ptr [trap], 0
    jne failed
    mov eax, after_invalid
    mov dword ptr [resume], eax
    ud2
after_invalid:
    cmp dword ptr [trap], 6
    jne failed
    mov eax, after_privileged
    mov dword ptr [resume], eax
    hlt
after_privileged:
    cmp dword ptr [trap], 13
    jne failed
    mov eax, after_breakpoint
    mov dword ptr [resume], eax
    int3
after_breakpoint:
    cmp dword ptr [trap], 3
    jne failed
    jmp succeeded
on_fault:
    mov eax, dword ptr [esp + 8 + frame_trap]
    mov dword ptr [trap], eax
    mov eax, dword ptr [esp + 8 + frame_cr2]
    mov dword ptr [fault_va], eax
    mov eax, dword ptr [resume]
    mov dword ptr [esp + 8 + frame_eip], eax
    ret

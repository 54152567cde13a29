# SPDX-License-Identifier: MIT
#
# What do segments, ports and the single step of a process have to do?

# Segments of our own: thread-local storage and, if the kernel has them, an LDT; both outlive a
# switch to another process.
step_segments:
    mov eax, shared
    mov dword ptr [segment + 4], eax
    mov dword ptr [segment], -1
    mov dword ptr [shared], 0x600d
    mov ebx, segment
    mov eax, sys_set_thread_area
    call sys
    cmp eax, -38
    je local_table
    test eax, eax
    jnz failed
    mov eax, dword ptr [segment]
    lea eax, [eax * 8 + 3]
    mov gs, ax
    mov eax, sys_sched_yield
    call sys
    cmp dword ptr gs:[0], 0x600d
    jne failed
local_table:
    mov dword ptr [segment], 0
    mov ebx, 0x11                   # write an entry
    mov ecx, segment
    mov edx, 16
    mov eax, sys_modify_ldt
    call sys
    cmp eax, -38
    je succeeded
    test eax, eax
    jnz failed
    mov eax, 7                      # entry 0 of the LDT, RPL 3
    mov fs, ax
    mov eax, sys_fork
    call sys
    test eax, eax
    jz look_through
    mov ebx, eax
    call wait_for
    cmp dword ptr fs:[0], 0x600d
    jne failed
    ret
look_through:
    xor ebx, ebx
    cmp dword ptr fs:[0], 0x600d
    je leave
    inc ebx
    jmp leave

# A process may be let to a port, and the right is taken away again.
step_ports:
    mov ebx, 3
    mov eax, sys_iopl
    call sys
    test eax, eax
    jnz without_ports
    in al, 0x61
    xor ebx, ebx
    mov eax, sys_iopl
    call sys
without_ports:
    jmp succeeded

# A child is run one instruction at a time.
step_trace:
    mov eax, sys_fork
    call sys
    test eax, eax
    jz be_traced
    mov esi, eax
    mov ebx, esi
    call wait_for
    mov edi, 8
single_step:
    cmp byte ptr [status], 0x7f     # stopped
    jne failed
    mov ebx, 9                      # PTRACE_SINGLESTEP
    call trace_it
    mov ebx, esi
    call wait_for
    dec edi
    jnz single_step
    mov ebx, 7                      # PTRACE_CONT
    call trace_it
    mov ebx, esi
    call wait_for
    sub eax, 3 * 256
    ret
trace_it:
    push esi
    mov ecx, esi
    xor edx, edx
    xor esi, esi
    mov eax, sys_ptrace
    call sys
    pop esi
    ret
be_traced:
    xor ebx, ebx                    # PTRACE_TRACEME
    call trace_it
    mov eax, sys_getpid
    call sys
    mov ebx, eax
    mov ecx, 19                     # SIGSTOP
    mov eax, sys_kill
    call sys
    nop
    nop
    nop
    nop
    nop
    nop
    nop
    nop
    mov ebx, 3
    jmp leave

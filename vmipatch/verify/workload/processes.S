# SPDX-License-Identifier: MIT
#
# What do processes have to do that come, switch, and become another program?

# Children get copies of our pages, write into a pipe, and end with a code of their own.
step_fork:
    mov edi, children
next_child:
    mov ebx, pipe_in
    mov eax, sys_pipe
    call sys
    mov dword ptr [shared], edi
    mov eax, sys_fork
    call sys
    test eax, eax
    jz child
    js failed
    mov esi, eax
    mov ebx, dword ptr [pipe_in]
    mov ecx, buffer
    mov edx, 4
    mov eax, sys_read
    call sys
    cmp dword ptr [shared], edi     # the child's copy is not ours
    jne failed
    lea eax, [edi + 100]
    cmp dword ptr [buffer], eax
    jne failed
    mov ebx, esi
    call wait_for
    mov ecx, edi
    shl ecx, 8
    cmp eax, ecx
    jne failed
    call close_pipe
    dec edi
    jnz next_child
    jmp succeeded
child:
    add dword ptr [shared], 100
    mov ebx, dword ptr [pipe_out]
    mov ecx, shared
    mov edx, 4
    mov eax, sys_write
    call sys
    mov ebx, edi
    jmp leave
close_pipe:
    mov ebx, dword ptr [pipe_in]
    mov eax, sys_close
    call sys
    mov ebx, dword ptr [pipe_out]
    mov eax, sys_close
    jmp sys

# Two processes hand a byte to and fro; each keeps its own number in the FPU.
step_switches:
    mov ebx, pipe_in
    mov eax, sys_pipe
    call sys
    mov ebx, back_in
    mov eax, sys_pipe
    call sys
    mov eax, sys_fork
    call sys
    mov esi, eax
    mov edi, rounds
    test eax, eax
    js failed
    jz answer
    fninit
    fld1
serve:
    mov ebx, dword ptr [pipe_out]
    mov eax, sys_write
    call one_byte
    mov ebx, dword ptr [back_in]
    mov eax, sys_read
    call one_byte
    dec edi
    jnz serve
    fistp dword ptr [number]
    mov ebx, esi
    call wait_for
    test eax, eax
    jnz failed
    cmp dword ptr [number], 1
    jne failed
    jmp succeeded
answer:
    fninit
    fldz
answer_next:
    mov ebx, dword ptr [pipe_in]
    mov eax, sys_read
    call one_byte
    mov ebx, dword ptr [back_out]
    mov eax, sys_write
    call one_byte
    dec edi
    jnz answer_next
    fistp dword ptr [number]
    mov ebx, dword ptr [number]
    jmp leave
one_byte:
    mov ecx, buffer
    mov edx, 1
    jmp sys

# A process becomes another program.
step_exec:
    mov eax, sys_fork
    call sys
    test eax, eax
    jz become
    mov ebx, eax
    call wait_for
    sub eax, 9 * 256
    ret
become:
    mov ebx, init_name
    mov ecx, exec_arguments
    mov edx, no_environment
    mov eax, sys_execve
    call sys
    mov ebx, 1
    jmp leave

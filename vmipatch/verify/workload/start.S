# SPDX-License-Identifier: MIT
#
# What does a kernel have to do for `vmipatch verify`? This program is /init of the file system that
# verify supplies: a static i386 ELF without a library. It runs one step after the other, each a
# subroutine that leaves EAX = 0 if all was as it should be, prints the verdict of each, and reboots.
#
# Nothing it prints or passes to the kernel depends on the time: a kernel and its rewritten twin have
# to agree on every system call. All calls but those that have to stand elsewhere go through `sys`:
# EAX number, EBX ECX EDX ESI EDI arguments, result in EAX, all else kept.
#
# Symbols from outside: call numbers sys_* (arch/x86/entry/syscalls/syscall_32.tbl).

.set heap_len, 0x40000                # pages of page_len
.set page_len, 4096
.set pages, 64
.set children, 12
.set rounds, 60
.set frame_eip, 56                  # of struct sigcontext, and what follows
.set frame_trap, 48
.set frame_cr2, 84
.set sa_restorer, 0x04000000
.set sa_nodefer, 0x40000000

_start:
    cmp dword ptr [esp], 3          # `/init exec x`: the step that tests execve
    je executed
    mov ebp, steps
run_step:
    cmp dword ptr [ebp], 0
    je all_done
    pushad
    call dword ptr [ebp]
    mov dword ptr [result], eax
    popad
    mov ecx, dword ptr [ebp + 4]
    call print
    mov ecx, text_ok
    cmp dword ptr [result], 0
    je print_verdict
    mov ecx, text_failed
print_verdict:
    call print
    add ebp, 8
    jmp run_step
all_done:
    mov ecx, text_done
    call print
    mov eax, sys_sync
    call sys
    mov eax, sys_reboot
    mov ebx, 0xfee1dead
    mov ecx, 672274793
    mov edx, 0x01234567             # LINUX_REBOOT_CMD_RESTART
    call sys
hang:
    mov eax, sys_pause
    call sys
    jmp hang
executed:
    mov ebx, 9
    jmp leave

# The one way into the kernel.
sys:
    int 0x80
    ret

# Write the NUL-terminated text at ECX to the console. Clobbers EAX, EBX, EDX.
print:
    xor edx, edx
measure:
    cmp byte ptr [ecx + edx], 0
    je write_out
    inc edx
    jmp measure
write_out:
    mov ebx, 1
    mov eax, sys_write
    jmp sys

# End the process with code EBX.
leave:
    mov eax, sys_exit
    call sys
    ud2

# Wait for the child EBX to end. EAX = its status as wait(2) has it. Clobbers ECX, EDX.
wait_for:
    mov ecx, status
    xor edx, edx
    mov eax, sys_waitpid
    call sys
    mov eax, dword ptr [status]
    ret

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

# Two calls in a row give the same pid, a thousand times.
step_calls:
    mov eax, sys_getpid
    call sys
    mov esi, eax
    mov edi, 1000
ask_again:
    mov eax, sys_getpid
    call sys
    cmp eax, esi
    jne failed
    dec edi
    jnz ask_again
succeeded:
    xor eax, eax
    ret
failed:
    mov eax, 1
    ret

# What is written to a file is read back.
step_files:
    mov eax, sys_open
    mov ebx, file_name
    mov ecx, 0x242                  # O_RDWR | O_CREAT | O_TRUNC
    mov edx, 0x180
    call sys
    test eax, eax
    js failed
    mov ebp, eax
    mov edi, 16
write_more:
    call fill_buffer
    mov ebx, ebp
    mov ecx, buffer
    mov edx, page_len
    mov eax, sys_write
    call sys
    cmp eax, page_len
    jne failed
    dec edi
    jnz write_more
    mov ebx, ebp
    xor ecx, ecx
    xor edx, edx
    mov eax, sys_lseek
    call sys
    mov edi, 16
read_more:
    mov ebx, ebp
    mov ecx, buffer
    mov edx, page_len
    mov eax, sys_read
    call sys
    cmp eax, page_len
    jne failed
    call check_buffer
    jne failed
    dec edi
    jnz read_more
    mov ebx, ebp
    mov eax, sys_close
    call sys
    mov ebx, file_name
    mov eax, sys_unlink
    call sys
    ret

# Fill the buffer with words made of EDI and their place; check_buffer sets ZF if they are there.
fill_buffer:
    mov ecx, 1023
fill_next:
    mov eax, edi
    shl eax, 16
    or eax, ecx
    mov dword ptr [buffer + ecx * 4], eax
    dec ecx
    jns fill_next
    ret
check_buffer:
    mov ecx, 1023
check_next:
    mov eax, edi
    shl eax, 16
    or eax, ecx
    cmp dword ptr [buffer + ecx * 4], eax
    jne check_end
    dec ecx
    jns check_next
    xor eax, eax
check_end:
    ret

# The heap grows, and a private mapping comes and goes: each page is touched for the first time.
step_memory:
    xor ebx, ebx
    mov eax, sys_brk
    call sys
    mov esi, eax
    lea ebx, [eax + heap_len]
    mov eax, sys_brk
    call sys
    mov edx, esi
    call touch
    jne failed
    push 0
    push -1
    push 0x22                       # MAP_PRIVATE | MAP_ANONYMOUS
    push 3                          # PROT_READ | PROT_WRITE
    push heap_len
    push 0
    mov ebx, esp
    mov eax, sys_mmap
    call sys
    add esp, 24
    cmp eax, -4096
    ja failed
    mov edx, eax
    mov ebx, eax
    call touch
    jne failed
    mov ecx, heap_len
    mov eax, sys_munmap
    call sys
    ret

# Write and read a word of each of `pages` pages from EDX on; ZF if all were zero before.
touch:
    mov ecx, pages
touch_next:
    cmp dword ptr [edx], 0
    jne touch_end
    mov dword ptr [edx], ecx
    cmp dword ptr [edx], ecx
    jne touch_end
    add edx, page_len
    dec ecx
    jnz touch_next
touch_end:
    ret

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

# A timer's signal ends a loop in user code; no call depends on when it comes.
step_timer:
    mov dword ptr [handled], 0
    mov ebx, 14                     # SIGALRM
    mov eax, on_signal
    call handle
    xor ebx, ebx                    # ITIMER_REAL
    mov ecx, timer
    xor edx, edx
    mov eax, sys_setitimer
    call sys
    test eax, eax
    jnz failed
spin:
    cmp dword ptr [handled], 0
    je spin
    jmp succeeded

# The kernel has nothing to do but wait: its idle loop.
step_sleep:
    mov ebx, moment
    xor ecx, ecx
    mov eax, sys_nanosleep
    call sys
    cmp eax, -38
    jne slept
    xor ebx, ebx                    # CLOCK_REALTIME
    xor ecx, ecx
    mov edx, moment_64
    xor esi, esi
    mov eax, sys_clock_nanosleep_time64
    call sys
slept:
    ret

# Seconds do not run backwards.
step_clock:
    mov edi, 100
    mov dword ptr [last_seconds], 0
tell_time:
    mov ebx, now
    xor ecx, ecx
    mov eax, sys_gettimeofday
    call sys
    test eax, eax
    jnz failed
    mov eax, dword ptr [now]
    cmp eax, dword ptr [last_seconds]
    jb failed
    mov dword ptr [last_seconds], eax
    dec edi
    jnz tell_time
    jmp succeeded

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

.p2align 2
steps:
    .long step_calls, name_calls
    .long step_files, name_files
    .long step_memory, name_memory
    .long step_fork, name_fork
    .long step_switches, name_switches
    .long step_exec, name_exec
    .long step_signals, name_signals
    .long step_faults, name_faults
    .long step_timer, name_timer
    .long step_sleep, name_sleep
    .long step_clock, name_clock
    .long step_segments, name_segments
    .long step_ports, name_ports
    .long step_trace, name_trace
    .long 0, 0
exec_arguments:
    .long init_name, text_exec, text_exec, 0
no_environment:
    .long 0
timer:
    .long 0, 0, 0, 20000            # once, in 20 ms
moment:
    .long 0, 30000000
moment_64:
    .long 0, 0, 30000000, 0
segment:                            # struct user_desc: 32 bits, data, limit 4 GiB
    .long -1, 0, 0xfffff, 0x51
name_calls:    .asciz "verify: calls"
name_files:    .asciz "verify: files"
name_memory:   .asciz "verify: memory"
name_fork:     .asciz "verify: fork"
name_switches: .asciz "verify: switches"
name_exec:     .asciz "verify: exec"
name_signals:  .asciz "verify: signals"
name_faults:   .asciz "verify: faults"
name_timer:    .asciz "verify: timer"
name_sleep:    .asciz "verify: sleep"
name_clock:    .asciz "verify: clock"
name_segments: .asciz "verify: segments"
name_ports:    .asciz "verify: ports"
name_trace:    .asciz "verify: trace"
text_ok:       .asciz " ok\n"
text_failed:   .asciz " FAILED\n"
text_done:     .asciz "verify: done\n"
text_exec:     .asciz "exec"
file_name:     .asciz "/file"
init_name:     .asciz "/init"

.p2align 4
result:       .long 0
status:       .long 0
shared:       .long 0
number:       .long 0
handled:      .long 0
trap:         .long 0
fault_va:     .long 0
resume:       .long 0
last_seconds: .long 0
pipe_in:      .long 0
pipe_out:     .long 0
back_in:      .long 0
back_out:     .long 0
now:          .long 0, 0
action:       .long 0, 0, 0, 0, 0
buffer:

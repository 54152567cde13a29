# SPDX-License-Identifier: MIT
#
# What do timers, sleep and clocks have to do?

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

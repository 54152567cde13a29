# SPDX-License-Identifier: GPL-2.0-only OR MIT
# The time-stamp counter.
# Out:      edx:eax = the counter.
# Preserves the rest, and EFLAGS.

BODY(RDTSC, native)
    rdtsc
    ret

# (BASE - LEFT) * SCALE + SKEW + TSC_STEPS, from the time page and the shared page. Every read steps
# the clock, so that loops that wait for it end soon. Both halves of the steps change at once, and
# this reading keeps what it has written: a handler that interrupts it here reads the clock as well.
BODY(RDTSC, paravirt)
    pushfd
    push ebx
    push ecx
    mov eax, dword ptr ss:[SHARED_TSC_STEPS]
    mov edx, dword ptr ss:[SHARED_TSC_STEPS + 4]
.Lstep_clock:
    mov ebx, eax
    mov ecx, edx
    add ebx, TSC_STEP
    adc ecx, 0
    cmpxchg8b qword ptr ss:[SHARED_TSC_STEPS]
    jne .Lstep_clock                    # a handler has stepped it meanwhile
    push ecx
    push ebx
.Lread_clock:
    mov ebx, dword ptr ss:[TIME_SEQUENCE]
    mov eax, dword ptr ss:[TIME_BASE]
    mov edx, dword ptr ss:[TIME_BASE + 4]
    sub eax, dword ptr ss:[TIME_LEFT]
    sbb edx, dword ptr ss:[TIME_LEFT + 4]
    imul edx, dword ptr ss:[TIME_SCALE]
    mov ecx, edx
    mul dword ptr ss:[TIME_SCALE]
    add edx, ecx
    add eax, dword ptr ss:[TIME_SKEW]
    adc edx, dword ptr ss:[TIME_SKEW + 4]
    cmp ebx, dword ptr ss:[TIME_SEQUENCE]
    jne .Lread_clock                    # the hypervisor set the clock meanwhile
    pop ebx
    pop ecx
    add eax, ebx
    adc edx, ecx
    pop ecx
    pop ebx
    popfd
    ret

# The counters of VMI. Real and available time are the clock of RDTSC, for this processor is never
# made to wait; none is ever stolen.

# Out:      edx:eax = Hz.
BODY(GET_CYCLE_FREQUENCY, paravirt)
    mov eax, CYCLES_HZ
    mov edx, 0
    ret

# In:       eax = 0 real, 1 available, 2 stolen. Out: edx:eax.
BODY(GET_CYCLE_COUNTER, paravirt)
    push ecx
    mov ecx, eax
    jecxz .Lclock
    lea ecx, [ecx - 1]
    jecxz .Lclock
    pop ecx
    mov eax, 0
    mov edx, 0
    ret
.Lclock:
    pop ecx
    jmp read_clock

# Out:      edx:eax = nanoseconds since 1970.
BODY(GET_WALLCLOCK_TIME, paravirt)
    call read_clock
    pushfd
    add eax, dword ptr ss:[TIME_EPOCH]
    adc edx, dword ptr ss:[TIME_EPOCH + 4]
    popfd
    ret

# Out:      eax = 0: the clock is not set.
BODY(WALLCLOCK_UPDATED, paravirt)
    mov eax, 0
    ret

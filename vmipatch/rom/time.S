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

# SPDX-License-Identifier: GPL-2.0-only OR MIT
# The time-stamp counter.
# Out:      edx:eax = the counter.
# Preserves the rest, and EFLAGS.

BODY(RDTSC, native)
    rdtsc
    ret

# (BASE - LEFT) * SCALE + SKEW + TSC_STEPS, from the time page and the shared page. Every read steps
# the clock, so that loops that wait for it end soon.
BODY(RDTSC, paravirt)
    pushfd
    push ecx
    add dword ptr ss:[SHARED_TSC_STEPS], TSC_STEP
    adc dword ptr ss:[SHARED_TSC_STEPS + 4], 0
.Lread_clock:
    push dword ptr ss:[TIME_SEQUENCE]
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
    add eax, dword ptr ss:[SHARED_TSC_STEPS]
    adc edx, dword ptr ss:[SHARED_TSC_STEPS + 4]
    pop ecx
    cmp ecx, dword ptr ss:[TIME_SEQUENCE]
    jne .Lread_clock                    # the hypervisor set the clock meanwhile
    pop ecx
    popfd
    ret

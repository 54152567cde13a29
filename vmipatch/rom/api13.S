# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Calls of API 13 that API 3 has not, or has with other arguments. All preserve everything but their
# results, EFLAGS too, as our other entries do; API 13 would let most spoil EAX, ECX and EDX.

# In:       eax = 0, 4 (a page table's) or so: nothing is ever put off. Out: eax = 0.
BODY(FLUSH_DEFERRED_CALLS, any)
    mov eax, 0
    ret

BODY(INVD, native)
    invd
    ret

# What only the caches hold would be lost, and with it memory of the hypervisor.
BODY(INVD, paravirt)
    HYPERCALL CALL_WBINVD

BODY(PAUSE, any)
    pause
    ret

# In:       eax = address of the entry, edx = entry.
BODY(SET_PXE_BY_ADDRESS, any)
    mov dword ptr [eax], edx
    ret

# In:       eax = address of the entry. Out: eax = entry.
BODY(GET_PXE, any)
    mov eax, dword ptr [eax]
    ret

# In:       eax = address of the entry, edx = entry. Out: eax = old entry.
BODY(SWAP_PXE, any)
    push edx
    xchg dword ptr [eax], edx
    mov eax, edx
    pop edx
    ret

# In:       eax, edx = low and high word of the entry, ecx = its address.
BODY(SET_PXE_LONG_UNFLAGGED, any)
    mov dword ptr [ecx], 0
    mov dword ptr [ecx + 4], edx
    mov dword ptr [ecx], eax
    ret

# In:       eax = address of the entry. Out: eax, edx = entry.
BODY(GET_PXE_LONG, any)
    mov edx, dword ptr [eax + 4]
    mov eax, dword ptr [eax]
    ret

# In:       eax, edx = low and high word of the entry, ecx = its address. Out: eax, edx = old entry.
BODY(SWAP_PXE_LONG_ATOMIC, any)
    pushfd
    push ebx
    push ecx
    push edi
    mov edi, ecx
    mov ebx, eax
    mov ecx, edx
    mov eax, dword ptr [edi]
    mov edx, dword ptr [edi + 4]
.Lswap:
    lock cmpxchg8b qword ptr [edi]
    jne .Lswap
    pop edi
    pop ecx
    pop ebx
    popfd
    ret

# In:       eax = address of the entry, edx = number of the bit. Out: eax = -1 if it was set, or 0.
BODY(TEST_AND_SET_PXE_BIT, any)
    pushfd
    lock bts dword ptr [eax], edx
    sbb eax, eax
    popfd
    ret

BODY(TEST_AND_CLEAR_PXE_BIT, any)
    pushfd
    lock btr dword ptr [eax], edx
    sbb eax, eax
    popfd
    ret

BODY(TEST_AND_SET_PXE_LONG_BIT, any)
    pushfd
    lock bts dword ptr [eax], edx
    sbb eax, eax
    popfd
    ret

BODY(TEST_AND_CLEAR_PXE_LONG_BIT, any)
    pushfd
    lock btr dword ptr [eax], edx
    sbb eax, eax
    popfd
    ret

# In:       eax = address of the entry. Out: eax, edx = old entry.
# Not present from the first store on: the processor does not change the high word then.
BODY(DEACTIVATE_PXE_LONG_ATOMIC, any)
    push ecx
    mov ecx, eax
    mov eax, 0
    xchg dword ptr [ecx], eax
    mov edx, dword ptr [ecx + 4]
    mov dword ptr [ecx + 4], 0
    pop ecx
    ret

# A fault of these three is the ROM's for a PC: API 13 says of itself that EIP may differ. In our
# hypervisor it arrives at the call, as of any hypercall.
BODY(RDMSR, native)
    rdmsr
    ret

BODY(WRMSR, native)
    wrmsr
    ret

BODY(RDPMC, native)
    rdpmc
    ret

# In:       eax = linear address of the register, edx = value.
BODY(APIC_WRITE, native)
    mov dword ptr [eax], edx
    ret

# In:       eax = linear address of the register. Out: eax = value.
BODY(APIC_READ, native)
    mov eax, dword ptr [eax]
    ret

BODY(IO_DELAY, native)
    out 0x80, al
    ret

BODY(IO_DELAY, paravirt)
    ret

# A PC has no timer of VMI, which a frequency of 0 says; the other calls are then without use.
BODY(GET_CYCLE_FREQUENCY, native)
    mov eax, 0
    mov edx, 0
    ret

BODY(GET_CYCLE_COUNTER, native)
    mov eax, 0
    mov edx, 0
    ret

BODY(SET_ALARM, native)
    ret

BODY(CANCEL_ALARM, native)
    mov eax, 0
    ret

BODY(GET_WALLCLOCK_TIME, native)
    mov eax, 0
    mov edx, 0
    ret

BODY(WALLCLOCK_UPDATED, native)
    mov eax, 0
    ret

# In:       eax = call number. Out: eax = address of its entry, edx = 1; 0 and 0 if there is no call.
BODY(GET_RELOCATION_INFO, any)
    pushfd
    push ecx
    mov ecx, eax
    call .Lafter_distance
distance:
    .long slot_init - distance
.Lafter_distance:
    pop eax
    add eax, dword ptr cs:[eax]
    mov edx, 1
    sub ecx, FIRST_SLOT
    cmp ecx, SLOT_COUNT
    jb .Lknown
    mov eax, 0
    mov edx, 0
    mov ecx, 0
.Lknown:
    shl ecx, 5
    add eax, ecx
    pop ecx
    popfd
    ret

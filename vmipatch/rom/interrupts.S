# SPDX-License-Identifier: GPL-2.0-only OR MIT
# EFLAGS.IF: virtual in the shared page, while the real one is always set at CPL 1.
# All: DS, ES, FS and GS may be anything, memory is reached through SS and CS.
# All but EnableInterrupts, SetInterruptMask and the halts: no event is delivered inside.

# Preserves everything; an event that waits is delivered before the return.
BODY(ENABLE_INTERRUPTS, native)
    sti
    ret

BODY(ENABLE_INTERRUPTS, paravirt)
    mov dword ptr ss:[SHARED_VIRTUAL_IF], 0x200
    push ecx
    mov ecx, dword ptr ss:[SHARED_PENDING]  # after the store: what comes between is delivered
    jecxz .Lnothing_waits
    pop ecx
    int INT_DELIVER
    ret
.Lnothing_waits:
    pop ecx
    ret

# Preserves everything.
BODY(DISABLE_INTERRUPTS, native)
    cli
    ret

BODY(DISABLE_INTERRUPTS, paravirt)
    mov dword ptr ss:[SHARED_VIRTUAL_IF], 0
    ret

# Out:      eax = IF (0x200) or 0, nothing else: callers add it and test it for 0.
# Preserves the rest, and EFLAGS.
# Natively without popfd, which is slow, and after which QEMU up to 7.2 gives other instructions'
# flags to cmpxchg8b (docs/decisions/0017).
BODY(GET_INTERRUPT_MASK, native)
    pushfd
    pop eax
    movzx eax, ah                   # bit 0 TF, bit 1 IF
    lea eax, [eax * 8]
    lea eax, [eax * 8]              # bit 6 TF, bit 7 IF
    movzx eax, al
    lea eax, [eax + eax]            # bit 7 TF, bit 8 IF
    mov al, 0
    lea eax, [eax + eax]            # bit 9 IF
    ret

BODY(GET_INTERRUPT_MASK, paravirt)
    mov eax, dword ptr ss:[SHARED_VIRTUAL_IF]
    ret

# In:       eax = EFLAGS, of which only IF counts.
# Preserves everything, also the other flags; an event that waits is delivered before the return.
BODY(SET_INTERRUPT_MASK, native)
    pushfd
    test ah, 2
    jz .Lmask
    popfd
    sti
    ret
.Lmask:
    popfd
    cli
    ret

BODY(SET_INTERRUPT_MASK, paravirt)
    push ecx
    movzx ecx, ah
    movzx ecx, byte ptr cs:[bit1_of + ecx]
    mov byte ptr ss:[SHARED_VIRTUAL_IF + 1], cl
    jecxz .Lmasked
    mov ecx, dword ptr ss:[SHARED_PENDING]
    jecxz .Lmasked
    pop ecx
    int INT_DELIVER
    ret
.Lmasked:
    pop ecx
    ret

# Interrupts on and wait for one. Preserves everything.
BODY(HALT, native)
    sti
    hlt
    ret

BODY(HALT, paravirt)
    int INT_HALT
    ret

# The end: does not return.
BODY(SHUTDOWN, native)
    cli
.Loff:
    hlt
    jmp .Loff

BODY(SHUTDOWN, paravirt)
    push ebx
.Loff:
    mov ebx, CALL_SHUTDOWN
    int INT_CALL
    jmp .Loff

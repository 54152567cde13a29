# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Descriptor table registers. All preserve everything but their results, and EFLAGS.
# The four that name a table in memory are bytes: the assembler gives them an operand-size prefix,
# and with it a base of 24 bits.

# In:       eax = address of limit (u16) and base (u32).
BODY(SET_GDT, native)
    .byte 0x0f, 0x01, 0x10              # lgdt [eax]
    ret

BODY(SET_IDT, native)
    .byte 0x0f, 0x01, 0x18              # lidt [eax]
    ret

# In:       eax = selector.
BODY(SET_LDT, native)
    lldt ax
    ret

BODY(SET_TR, native)
    ltr ax
    ret

# In:       eax = address of 6 bytes. Out: limit and base there.
BODY(GET_GDT, native)
    .byte 0x0f, 0x01, 0x00              # sgdt [eax]
    ret

BODY(GET_GDT, paravirt)
    push ecx
    mov ecx, dword ptr ss:[SHARED_GDTR]
    mov dword ptr ss:[eax], ecx
    movzx ecx, word ptr ss:[SHARED_GDTR + 4]
    mov word ptr ss:[eax + 4], cx
    pop ecx
    ret

BODY(GET_IDT, native)
    .byte 0x0f, 0x01, 0x08              # sidt [eax]
    ret

BODY(GET_IDT, paravirt)
    push ecx
    mov ecx, dword ptr ss:[SHARED_IDTR]
    mov dword ptr ss:[eax], ecx
    movzx ecx, word ptr ss:[SHARED_IDTR + 4]
    mov word ptr ss:[eax + 4], cx
    pop ecx
    ret

# Out:      eax = selector.
BODY(GET_LDT, native)
    mov eax, 0                          # older processors leave the upper half alone
    sldt ax
    ret

BODY(GET_LDT, paravirt)
    mov eax, dword ptr ss:[SHARED_LDTR]
    ret

BODY(GET_TR, native)
    mov eax, 0
    str ax
    ret

BODY(GET_TR, paravirt)
    mov eax, dword ptr ss:[SHARED_TR]
    ret

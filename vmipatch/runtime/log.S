# SPDX-License-Identifier: GPL-2.0-only OR MIT
# One line in the kernel's log, by its own printk (arguments on the stack, the caller pops).
#
# In:       EAX = linked address of a format, ECX and EDX = its arguments, EBP = relocation
# Keeps:    EBP
# Clobbers: EAX, EBX, ECX, EDX, ESI, EDI, flags

vmi_log:
    mov ebx, fact_printk
    test ebx, ebx
    jz vmi_logged
    push ebp
    push edx
    push ecx
    add eax, ebp
    push eax
    add ebx, ebp
    call ebx
    add esp, 12
    pop ebp
vmi_logged:
    ret

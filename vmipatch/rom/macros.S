# SPDX-License-Identifier: GPL-2.0-only OR MIT
# What entries begin with. Both macros preserve every register and EFLAGS.

# A whole entry: the hypervisor executes call `number`.
# It finds at ESP the caller's EBX and above it the return address.
.macro HYPERCALL number
    push ebx
    mov ebx, \number
    int INT_CALL
    pop ebx
    ret
.endm

# One byte for an observer: a ROM in shadow RAM is read-only and cannot count.
.macro TRACE number
    push eax
    mov al, \number
    out TRACE_PORT, al
    pop eax
.endm

# SPDX-License-Identifier: GPL-2.0-only OR MIT
# What concerns the machine as a whole, and user code's right to its ports.

# In:       eax = 0 soft, 1 hard. Does not return.
BODY(REBOOT, native)
    cli
    test eax, eax
    jz .Lsoft
    mov al, 6                           # the chipset's reset control register
    mov edx, 0xcf9
    out dx, al
.Lsoft:
    mov al, 0xfe                        # the keyboard controller's pulse
    out 0x64, al
    push 0                              # neither is there: a fault without a handler
    push 0
    .byte 0x0f, 0x01, 0x1c, 0x24        # lidt [esp]
    int3

# In:       eax = IOPL in bits 12 and 13. Preserves everything else, EFLAGS too.
BODY(SET_IOPL_MASK, native)
    pushfd
    push eax
    and eax, 0x3000
    and dword ptr [esp + 4], 0xffffcfff
    or dword ptr [esp + 4], eax
    pop eax
    popfd
    ret

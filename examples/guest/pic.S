# SPDX-License-Identifier: GPL-2.0-only OR MIT
# How the interrupt controllers and the timer of a PC are set up.

SECTION(.init.text)

# PICs at 0x20 and 0x28 with only IRQ 0 open; PIT at 100 Hz. Clobbers EAX, EDX, ESI.
FUNC(pic_init)
    mov esi, irq_setup
.Lnext_port:
    movzx edx, byte ptr [esi]
    test edx, edx
    jz .Lports_done
    mov al, [esi + 1]
    out dx, al
    add esi, 2
    jmp .Lnext_port
.Lports_done:
    ret
END(pic_init)

SECTION(.init.data)

# Pairs of port and value: ICW1-4 of both PICs, masks, PIT mode 2 with 1193182 / 100 = 11932.
OBJECT(irq_setup, 1)
    .byte 0x20, 0x11, 0xa0, 0x11, 0x21, 0x20, 0xa1, 0x28, 0x21, 4, 0xa1, 2, 0x21, 1, 0xa1, 1
    .byte 0x21, 0xfe, 0xa1, 0xff, 0x43, 0x34, 0x40, 0x9c, 0x40, 0x2e, 0
END(irq_setup)

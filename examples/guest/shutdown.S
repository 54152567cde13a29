# SPDX-License-Identifier: GPL-2.0-only OR MIT
# How the guest ends: keyboard controller, then triple fault, then a halt for good.

SECTION(.text)

# Never returns.
FUNC(machine_shutdown)
    REPORT("GUEST done")
    cli
    mov ecx, 0x10000
.Lcontroller_busy:
    in al, 0x64
    test al, 2
    jz .Lcontroller_free
    loop .Lcontroller_busy
.Lcontroller_free:
    mov al, 0xfe
    out 0x64, al
    mov ecx, 0x100000
.Lreset_is_coming:
    pause
    loop .Lreset_is_coming
    lidt [no_idt]
    int3
END(machine_shutdown)

# The end after a panic, too. Never returns.
FUNC(machine_halt)
    cli
    hlt
    jmp machine_halt
END(machine_halt)

SECTION(.rodata)

OBJECT(no_idt, 4)
    .word 0
    .long 0
END(no_idt)

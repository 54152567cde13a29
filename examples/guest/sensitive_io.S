# SPDX-License-Identifier: GPL-2.0-only OR MIT
# What port I/O does: IN and OUT in all sizes and forms, INS and OUTS with and without REP.
# Ports: 0x21 the interrupt mask, 0x80 the delay port (its value differs between machines and is
# not printed), 0x3f8 the console.

SECTION(.text)

# Clobbers all but ESP.
FUNC(observe_ports)
    cli
    in al, 0x21
    movzx ebx, al
    mov al, 0xfa
    out 0x21, al
    in al, 0x21
    movzx ecx, al
    mov al, bl
    out 0x21, al
    sti
    REPORT("in out imm8: mask %x changed to %x", ebx, ecx)

    cli
    mov edx, 0x21
    mov eax, 0xaabbccdd
    in al, dx
    mov ebx, eax
    mov al, 0xfc
    out dx, al
    mov eax, 0x11223344
    in al, dx
    mov ecx, eax
    mov al, bl
    out dx, al
    sti
    REPORT("in out dx: eax %x then %x", ebx, ecx)

    # Wider forms: only that the upper half of EAX stays as it is can be seen.
    mov edx, 0x80
    mov eax, 0x55660000
    in ax, dx
    mov ebx, eax
    shr ebx, 16
    out dx, ax
    mov eax, 0x77880000
    in ax, 0x80
    mov ecx, eax
    shr ecx, 16
    out 0x80, ax
    REPORT("in out 16 bit: upper halves %x %x", ebx, ecx)
    in eax, dx
    out dx, eax
    in eax, 0x80
    out 0x80, eax
    mov al, 0
    out 0x80, al
    REPORT("in out 32 bit: done")

    # INS and OUTS, upwards and downwards.
    cli
    mov dx, 0x21
    mov edi, io_buffer
    insb
    mov esi, io_buffer
    outsb
    mov ebx, edi
    sub ebx, io_buffer
    mov ecx, esi
    sub ecx, io_buffer
    movzx eax, byte ptr [io_buffer]
    sti
    REPORT("insb outsb: read %x edi+%x esi+%x", eax, ebx, ecx)
    mov dx, 0x80
    mov edi, io_buffer
    mov esi, io_buffer
    insw
    outsw
    insd
    outsd
    mov ebx, edi
    sub ebx, io_buffer
    mov ecx, esi
    sub ecx, io_buffer
    REPORT("insw outsw insd outsd: edi+%x esi+%x", ebx, ecx)
    mov edi, io_buffer + 8
    mov ecx, 3
    std
    rep insw
    cld
    mov ebx, edi
    sub ebx, io_buffer
    mov esi, io_buffer
    push ecx
    mov ecx, 2
    rep outsd
    mov edx, esi
    sub edx, io_buffer
    pop eax
    REPORT("rep insw down rep outsd up: edi+%x esi+%x ecx %x %x", ebx, edx, eax, ecx)
    mov edx, 0x21
    mov edi, io_buffer
    mov ecx, 4
    rep insb
    mov ebx, [io_buffer]
    xor ecx, ecx
    rep insb
    REPORT("rep insb: four times the mask %x", ebx)

    # Straight to the console: fits into the FIFO once that has run empty.
    mov edx, 0x3fd
.Lfifo_busy:
    in al, dx
    test al, 0x40
    jz .Lfifo_busy
    mov edx, 0x3f8
    mov esi, outs_text
    mov ecx, outs_text_end
    sub ecx, esi
    rep outsb
    ret
END(observe_ports)

SECTION(.rodata)

OBJECT(outs_text, 1)
    .ascii "rep outsb: ok"
    .byte 13, 10
END(outs_text)
GLOBAL(outs_text_end)

SECTION(.bss)

OBJECT(io_buffer, 4)
    .skip 16
END(io_buffer)

# SPDX-License-Identifier: GPL-2.0-only OR MIT
# How the guest writes a line to the serial port at 0x3f8, by polling.

#define UART 0x3f8

SECTION(.init.text)

# 115200 baud, 8N1, FIFO on, no interrupts. Clobbers EAX, EDX, ESI.
FUNC(console_init)
    mov esi, uart_setup
    mov edx, UART
.Lnext_register:
    lodsb
    cmp al, 0xff
    je .Luart_ready
    movzx edx, al
    add edx, UART
    lodsb
    out dx, al
    jmp .Lnext_register
.Luart_ready:
    ret
END(console_init)

SECTION(.init.data)

# Pairs of register and value.
OBJECT(uart_setup, 1)
    .byte 1, 0, 3, 0x80, 0, 1, 1, 0, 3, 3, 2, 0xc7, 4, 3, 0xff
END(uart_setup)

SECTION(.text)

# Write AL. All registers are kept.
FUNC(serial_putc)
    push edx
    push eax
    mov edx, UART + 5
.Lnot_empty:
    in al, dx
    test al, 0x20
    jz .Lnot_empty
    pop eax
    mov edx, UART
    out dx, al
    pop edx
    ret
END(serial_putc)

# Write the text at ESI up to its NUL. Clobbers EAX, ESI.
FUNC(serial_puts)
    lodsb
    test al, al
    jz .Lputs_done
    call serial_putc
    jmp serial_puts
.Lputs_done:
    ret
END(serial_puts)

# Write EAX in hexadecimal without leading zeros. Clobbers EAX, ECX, EDX.
FUNC(serial_puthex)
    mov edx, eax
    mov ecx, 32
.Lskip_zero:
    sub ecx, 4
    jz .Ldigit
    mov eax, edx
    shr eax, cl
    jz .Lskip_zero
.Ldigit:
    mov eax, edx
    shr eax, cl
    and eax, 15
    movzx eax, byte ptr [hex_digits + eax]
    call serial_putc
    sub ecx, 4
    jns .Ldigit
    ret
END(serial_puthex)

# report(text, ...): %x is the next value in hexadecimal, %y the next value as yes or no.
# in: arguments on the stack, taken off by the caller; all registers are kept, flags are not
FUNC(report)
    pushad
    mov esi, [esp + 36]
    lea edi, [esp + 40]
.Lnext_char:
    lodsb
    test al, al
    jz .Lreport_done
    cmp al, 37
    je .Lformat
    cmp al, 10
    jne .Lplain
    mov al, 13
    call serial_putc
    mov al, 10
.Lplain:
    call serial_putc
    jmp .Lnext_char
.Lformat:
    lodsb
    mov edx, [edi]
    add edi, 4
    cmp al, 120
    jne .Lyes_or_no
    mov eax, edx
    call serial_puthex
    jmp .Lnext_char
.Lyes_or_no:
    push esi
    mov esi, word_no
    test edx, edx
    jz .Lsay_word
    mov esi, word_yes
.Lsay_word:
    call serial_puts
    pop esi
    jmp .Lnext_char
.Lreport_done:
    popad
    ret
END(report)

SECTION(.rodata)

OBJECT(hex_digits, 1)
    .ascii "0123456789abcdef"
END(hex_digits)

OBJECT(word_yes, 1)
    .byte 121, 101, 115, 0
END(word_yes)

OBJECT(word_no, 1)
    .byte 110, 111, 0
END(word_no)

# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Which descriptors exist: GDT, LDT, TSS, IDT, and how a base or a handler gets into one.

SECTION(.text)

# Put a base into an 8-byte descriptor.
# in: EAX = base, EDX = address of the descriptor (RPL bits are ignored); clobbers EAX, EDX
FUNC(set_descriptor_base)
    and edx, 0xfffffff8
    mov [edx + 2], ax
    shr eax, 16
    mov [edx + 4], al
    mov [edx + 7], ah
    ret
END(set_descriptor_base)

SECTION(.init.text)

# Load TSS and LDT. Clobbers EAX, EDX.
FUNC(cpu_init)
    mov eax, tss
    mov edx, gdt + TSS_SEL
    call set_descriptor_base
    mov eax, ldt
    mov edx, gdt + LDT_SEL
    call set_descriptor_base
    mov eax, ldt_data
    mov edx, ldt
    call set_descriptor_base
    mov eax, small_data
    mov edx, gdt + SMALL_SEL
    call set_descriptor_base
    mov eax, init_stack_top
    mov [tss + 4], eax
    mov eax, TSS_SEL
    ltr ax
    lldt word ptr [ldt_selector]
    ret
END(cpu_init)

# in: ECX = vector, EDX = type word (0x8e00 interrupt gate, 0xef00 trap gate for ring 3, ...),
#     EAX = handler; clobbers EAX, EDX
FUNC(set_gate)
    push eax
    and eax, 0xffff0000
    or edx, eax
    pop eax
    and eax, 0xffff
    or eax, KERNEL_CS << 16
    mov [idt_table + ecx * 8], eax
    mov [idt_table + ecx * 8 + 4], edx
    ret
END(set_gate)

SECTION(.data)

# Indices as in Linux for i386.
OBJECT(gdt, 4096)
    .quad 0, 0, 0, 0, 0, 0
    .quad 0x00cff2000000ffff            # 6: TLS, its base is set again and again
    .quad 0, 0, 0, 0, 0
    .quad 0x00cf9b000000ffff            # 12: kernel code
    .quad 0x00cf93000000ffff            # 13: kernel data
    .quad 0x00cffb000000ffff            # 14: user code
    .quad 0x00cff3000000ffff            # 15: user data
    .quad 0x0000890000000067            # 16: TSS
    .quad 0x000082000000000f            # 17: LDT
    .quad 0x0040f30000000123            # 18: small data
    .quad 0x00cf13000000ffff            # 19: data, not present
    .quad 0, 0, 0, 0, 0, 0, 0
    .quad 0x00cf93000000ffff            # 27: per-CPU data
    .quad 0, 0, 0, 0
END(gdt)

OBJECT(ldt, 8)
    .quad 0x0040f3000000000f            # 0: data of 16 bytes
    .quad 0
END(ldt)

OBJECT(tss, 128)
    .long 0, 0, KERNEL_DS
    .skip 88
    .word 0, 104                        # the I/O bitmap lies beyond the limit: no port is open
END(tss)

OBJECT(gdt_descr, 4)
    .word 0xff
    .long gdt
END(gdt_descr)

OBJECT(idt_descr, 4)
    .word 0x7ff
    .long idt_table
END(idt_descr)

OBJECT(ldt_selector, 2)
    .word LDT_SEL
END(ldt_selector)

OBJECT(ldt_data, 4)
    .long 0x11223344, 0x55667788, 0x99aabbcc, 0xddeeff00
END(ldt_data)

OBJECT(small_data, 4)
    .long 0x600dda7a
END(small_data)

OBJECT(cpu_area, 4)
    .long task_main                     # CPU_CURRENT
    .long 0                             # CPU_PREEMPT
END(cpu_area)

SECTION(.bss)

OBJECT(idt_table, 4096)
    .skip 2048
END(idt_table)

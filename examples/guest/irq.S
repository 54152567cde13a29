# SPDX-License-Identifier: GPL-2.0-only OR MIT
# How hardware interrupts arrive: entry stubs of 8 bytes each, the tick.

SECTION(.text)

# One stub for each of the vectors 0x20-0x2f; the IDT is filled by arithmetic on this address.
FUNC(irq_entries_start)
    .set vector, 0x20
    .rept 16
    .byte 0x6a, vector
    .byte 0xe9
    .long asm_common_interrupt - . - 4
    .byte 0xcc
    .set vector, vector + 1
    .endr
END(irq_entries_start)

# in: vector in the place of an error code
FUNC(asm_common_interrupt)
    push -1
    SAVE_ALL
    mov eax, esp
    mov ecx, [esp + REG_ERROR]
    call dword ptr [irq_handlers + ecx * 4 - 0x80]
    cmp dword ptr [need_resched], 0
    je return_from_trap
    cmp dword ptr fs:[CPU_PREEMPT], 0
    je return_from_trap
    mov dword ptr [need_resched], 0
    call schedule
    jmp return_from_trap
END(asm_common_interrupt)

# The tick: acknowledge, count, ask for a switch.
# in: EAX = frame; clobbers EAX, ECX
FUNC(timer_interrupt)
    mov ecx, eax
    mov al, 0x20
    out 0x20, al
    inc dword ptr [jiffies]
    test byte ptr [ecx + REG_CS], 2
    jz .Ltick_in_kernel
    mov eax, [user_ticks]
    test eax, eax
    jz .Ltick_in_kernel
    inc dword ptr [eax]
.Ltick_in_kernel:
    test dword ptr [ecx + REG_FLAGS], FLAG_IF
    jnz .Ltick_allowed
    inc dword ptr [ticks_without_if]
.Ltick_allowed:
    mov dword ptr [need_resched], 1
    ret
END(timer_interrupt)

# An unexpected interrupt; acknowledged at both controllers. Clobbers EAX.
FUNC(spurious_interrupt)
    mov al, 0x20
    out 0xa0, al
    out 0x20, al
    inc dword ptr [spurious_count]
    ret
END(spurious_interrupt)

# Let `EAX` ticks go by with interrupts on; they were on before. Clobbers EAX.
FUNC(wait_ticks)
    add eax, [jiffies]
.Lwait_more:
    sti
    hlt
    cmp [jiffies], eax
    js .Lwait_more
    ret
END(wait_ticks)

SECTION(.init.text)

# Gates for the stubs; then interrupts are on.
# Clobbers EAX, ECX, EDX, ESI.
FUNC(irq_init)
    mov ecx, 0x20
.Lnext_irq:
    lea eax, [irq_entries_start + ecx * 8 - 0x100]
    mov edx, 0x8e00
    call set_gate
    inc ecx
    cmp ecx, 0x30
    jb .Lnext_irq
    call pic_init
    sti
    ret
END(irq_init)

SECTION(.data)

OBJECT(irq_handlers, 4)
    .long timer_interrupt
    .rept 15
    .long spurious_interrupt
    .endr
END(irq_handlers)

SECTION(.bss)

OBJECT(jiffies, 4)
    .skip 4
END(jiffies)

# The user's word that counts ticks in ring 3, or 0.
OBJECT(user_ticks, 4)
    .skip 4
END(user_ticks)

OBJECT(ticks_without_if, 4)
    .skip 4
END(ticks_without_if)

OBJECT(spurious_count, 4)
    .skip 4
END(spurious_count)

OBJECT(need_resched, 4)
    .skip 4
END(need_resched)

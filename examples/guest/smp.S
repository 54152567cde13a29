# SPDX-License-Identifier: GPL-2.0-only OR MIT
# What does a second processor do? It starts by INIT and STARTUP, shares a lock, is interrupted,
# executes code that the first one writes, and forgets a page that the first one changes.

#define TRAMPOLINE 0x9000               # physical; STARTUP names it by page
#define APIC_BASE 0xfee00000
#define APIC 0xd0001000                 # the second page of the vmalloc area
#define APIC_EOI 0xd00010b0
#define APIC_SVR 0xd00010f0
#define APIC_ICR 0xd0001300
#define APIC_ICR_HIGH 0xd0001310
#define APIC_LINT0 0xd0001350
#define CALL_VECTOR 0xf0
#define ROUNDS 50
#define LOCKED 1000

SECTION(.text)

# Where the trampoline jumps, at physical addresses: protected mode, paging off, no stack.
# never returns
FUNC(startup_32_smp)
    cld
    lgdt [boot_gdt_descr - PAGE_OFFSET]
    mov eax, KERNEL_DS
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov ss, eax
    mov eax, initial_page_table - PAGE_OFFSET
    mov cr3, eax
    mov eax, 0x80050033
    mov cr0, eax
    jmp_far KERNEL_CS, second_paging_is_on
END(startup_32_smp)

FUNC(second_paging_is_on)
    lss esp, [second_stack_pointer]
    lgdt [gdt_descr]
    lidt [idt_descr]
    jmp_far KERNEL_CS, second_gdt_is_loaded
END(second_paging_is_on)

FUNC(second_gdt_is_loaded)
    mov eax, KERNEL_DS
    mov ss, eax
    mov eax, USER_DS
    mov ds, eax
    mov es, eax
    mov eax, PERCPU_SEL
    mov fs, eax
    xor eax, eax
    mov gs, eax
    lldt ax
    mov eax, swapper_pg_dir - PAGE_OFFSET
    mov cr3, eax
    jmp start_secondary
END(second_gdt_is_loaded)

# The second processor waits for work. never returns
FUNC(start_secondary)
    mov dword ptr [APIC_SVR], 0x1ff
    mov dword ptr [second_is_up], 1
.Lwait_for_work:
    cli
    mov eax, [second_work]
    test eax, eax
    jnz .Lwork
    sti
    hlt
    jmp .Lwait_for_work
.Lwork:
    sti
    call dword ptr [second_jobs + eax * 4 - 4]
    mov dword ptr [second_work], 0
    jmp .Lwait_for_work
END(start_secondary)

# An interrupt from the other processor: it has work.
FUNC(asm_call_function)
    inc dword ptr ss:[call_count]
    mov dword ptr ss:[APIC_EOI], 0
    iretd
END(asm_call_function)

# Add to a sum that both processors add to, under a lock. Clobbers EAX, ECX.
FUNC(add_locked)
    mov ecx, LOCKED
.Ltake_lock:
    lock bts dword ptr [sum_lock], 0
    jnc .Lhas_lock
    pause
    jmp .Ltake_lock
.Lhas_lock:
    mov eax, [locked_sum]
    inc eax
    mov [locked_sum], eax
    mov dword ptr [sum_lock], 0
    loop .Ltake_lock
    ret
END(add_locked)

# Execute what the first processor has written. Clobbers EAX.
FUNC(execute_written)
    mov eax, written_code
    call eax
    mov [second_saw], eax
    ret
END(execute_written)

# Forget the first page of the vmalloc area, and look at it anew. Clobbers EAX.
FUNC(look_at_page)
    mov eax, VMALLOC_BASE
    invlpg [eax]
    mov eax, [VMALLOC_BASE]
    mov [second_saw], eax
    ret
END(look_at_page)

# No more work. never returns
FUNC(stop_second)
    mov dword ptr [second_work], 0
.Lstopped:
    cli
    hlt
    jmp .Lstopped
END(stop_second)

# Give the second processor work. in: EAX = number of the job
FUNC(begin_call)
    mov [second_work], eax
    mov eax, [second_apic_id]
    shl eax, 24
    mov [APIC_ICR_HIGH], eax
    mov dword ptr [APIC_ICR], 0x4000 + CALL_VECTOR
    ret
END(begin_call)

# Wait until it is done.
FUNC(end_call)
    pause
    cmp dword ptr [second_work], 0
    jne end_call
    ret
END(end_call)

# Start the second processor. out: EAX = 1 if it has come; clobbers ECX, EDX, ESI, EDI
FUNC(start_second)
    mov dword ptr [vmalloc_page_table + 4], APIC_BASE + 0x13
    mov eax, APIC
    invlpg [eax]
    # LINT0 stays the wire from the 8259A.
    mov dword ptr [APIC_LINT0], 0x700
    mov dword ptr [APIC_SVR], 0x1ff
    mov esi, trampoline
    mov edi, PAGE_OFFSET + TRAMPOLINE
    mov ecx, trampoline_end
    sub ecx, esi
    rep movsb
    mov edx, [second_apic_id]
    shl edx, 24
    mov [APIC_ICR_HIGH], edx
    mov dword ptr [APIC_ICR], 0x4500
    mov eax, 2
    call wait_ticks
    mov [APIC_ICR_HIGH], edx
    mov dword ptr [APIC_ICR], 0x4600 + TRAMPOLINE / 4096
    mov ecx, 100
.Lnot_yet_up:
    cmp dword ptr [second_is_up], 0
    jne .Lsecond_is_up
    mov eax, 1
    call wait_ticks
    loop .Lnot_yet_up
.Lsecond_is_up:
    mov eax, [second_is_up]
    ret
END(start_second)

FUNC(observe_processors)
    call count_processors
    cmp eax, 2
    jae .Lseveral
    REPORT("processors: one")
    ret
.Lseveral:
    call start_second
    test eax, eax
    jnz .Lboth_run
    REPORT("processors: the second one does not start")
    ret
.Lboth_run:
    mov eax, 1
    call begin_call
    call add_locked
    call end_call
    REPORT("processors: sum under a lock %x", [locked_sum])

    mov byte ptr [written_code], 0xb8
    mov byte ptr [written_code + 5], 0xc3
    xor ebx, ebx
    mov edi, ROUNDS
.Lwrite_code:
    mov [written_code + 1], edi
    mov eax, 2
    call begin_call
    call end_call
    cmp [second_saw], edi
    je .Lcode_is_new
    inc ebx
.Lcode_is_new:
    dec edi
    jnz .Lwrite_code
    REPORT("processors: old code executed %x times", ebx)

    mov dword ptr [page_one], 0x1111
    mov dword ptr [page_two], 0x2222
    xor ebx, ebx
    mov edi, ROUNDS
.Lchange_page:
    mov eax, page_one - PAGE_OFFSET + 3
    mov esi, 0x1111
    test edi, 1
    jz .Lpage_chosen
    mov eax, page_two - PAGE_OFFSET + 3
    mov esi, 0x2222
.Lpage_chosen:
    call set_vmalloc_entry
    mov eax, 3
    call begin_call
    call end_call
    cmp [second_saw], esi
    je .Lpage_is_new
    inc ebx
.Lpage_is_new:
    dec edi
    jnz .Lchange_page
    REPORT("processors: old page seen %x times", ebx)

    mov eax, 4
    call begin_call
    call end_call
    REPORT("processors: interrupts came: %y", [call_count])
    ret
END(observe_processors)

SECTION(.rodata)

# Real mode: CLI, LGDT CS:[0x20], EAX = 1, LMSW AX, far jump into 32-bit code.
OBJECT(trampoline, 4)
    .byte 0xfa, 0x66, 0x2e, 0x0f, 0x01, 0x16, 0x20, 0x00
    .byte 0x66, 0xb8, 0x01, 0x00, 0x00, 0x00, 0x0f, 0x01, 0xf0, 0x66, 0xea
    .long startup_32_smp - PAGE_OFFSET
    .word KERNEL_CS
    .byte 0, 0, 0, 0, 0, 0, 0
    .word 0xff
    .long gdt - PAGE_OFFSET
END(trampoline)
GLOBAL(trampoline_end)

OBJECT(second_jobs, 4)
    .long add_locked, execute_written, look_at_page, stop_second
END(second_jobs)

SECTION(.data)

OBJECT(second_stack_pointer, 4)
    .long second_stack_top
    .long KERNEL_DS
END(second_stack_pointer)

SECTION(.bss)

OBJECT(second_stack, 4096)
    .skip 4096
END(second_stack)
GLOBAL(second_stack_top)

# Code, in the words that the first processor writes.
OBJECT(written_code, 16)
    .skip 16
END(written_code)

OBJECT(second_is_up, 4)
    .skip 4
END(second_is_up)

OBJECT(second_work, 4)
    .skip 4
END(second_work)

OBJECT(second_saw, 4)
    .skip 4
END(second_saw)

OBJECT(call_count, 4)
    .skip 4
END(call_count)

OBJECT(sum_lock, 4)
    .skip 4
END(sum_lock)

OBJECT(locked_sum, 4)
    .skip 4
END(locked_sum)

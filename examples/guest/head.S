# SPDX-License-Identifier: GPL-2.0-only OR MIT
# How the guest gets from the boot loader's 32-bit entry to paging and its virtual addresses.
# Until CR0.PG is set the code runs at physical addresses: symbols are written minus PAGE_OFFSET.

SECTION(.text)

# The entry of the 32-bit boot protocol.
# in: ESI = boot_params, flat segments, paging off, interrupts off; no stack; never returns
FUNC(startup_32)
    cld
    cli
    lgdt [boot_gdt_descr - PAGE_OFFSET]
    mov eax, KERNEL_DS
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov ss, eax
    mov edi, __bss_start - PAGE_OFFSET
    mov ecx, __bss_stop - PAGE_OFFSET
    sub ecx, edi
    shr ecx, 2
    xor eax, eax
    rep stosd
    mov esp, init_stack_top - PAGE_OFFSET
    mov edi, boot_params - PAGE_OFFSET
    mov ecx, 1024
    rep movsd

    # Lowmem at PAGE_OFFSET and, until paging_init, at 0.
    mov edi, lowmem_tables - PAGE_OFFSET
    mov eax, 3
    mov ecx, LOWMEM_TABLES * 1024
.Lfill_table:
    mov [edi], eax
    add edi, 4
    add eax, 0x1000
    loop .Lfill_table
    mov edi, initial_page_table - PAGE_OFFSET
    mov eax, lowmem_tables - PAGE_OFFSET + 3
    mov ecx, LOWMEM_TABLES
.Lfill_directory:
    mov [edi], eax
    mov [edi + 768 * 4], eax
    add edi, 4
    add eax, 0x1000
    loop .Lfill_directory

    # CPUID exists if EFLAGS.ID can be changed.
    pushfd
    pop eax
    mov ecx, eax
    xor eax, 0x200000
    push eax
    popfd
    pushfd
    pop eax
    xor eax, ecx
    shr eax, 21
    and eax, 1
    mov [has_cpuid - PAGE_OFFSET], eax
    push ecx
    popfd

    mov eax, initial_page_table - PAGE_OFFSET
    mov cr3, eax
    mov eax, 0x80050033
    mov cr0, eax
    jmp_far KERNEL_CS, paging_is_on
END(startup_32)

# Runs at virtual addresses from here on.
# in: paging on, identity map still there; never returns
FUNC(paging_is_on)
    lss esp, [initial_stack]
    call early_idt_setup
    lgdt [gdt_descr]
    lidt [idt_descr]
    jmp_far KERNEL_CS, gdt_is_loaded
END(paging_is_on)

FUNC(gdt_is_loaded)
    mov eax, KERNEL_DS
    mov ss, eax
    mov eax, USER_DS
    mov ds, eax
    mov es, eax
    xor eax, eax
    mov gs, eax
    mov eax, PERCPU_SEL
    mov fs, eax
    xor eax, eax
    lldt ax
    call dword ptr [initial_code]
    ud2
END(gdt_is_loaded)

SECTION(.init.text)

# An early gate for each exception, and the base of the per-CPU segment.
# clobbers: EAX, ECX, EDX, EDI
FUNC(early_idt_setup)
    mov eax, cpu_area
    mov edx, gdt + PERCPU_SEL
    call set_descriptor_base
    mov edi, idt_table
    mov eax, early_idt_handler_array
    mov ecx, 32
.Lnext_gate:
    mov edx, eax
    and edx, 0xffff
    or edx, KERNEL_CS << 16
    mov [edi], edx
    mov edx, eax
    and edx, 0xffff0000
    or edx, 0x8e00
    mov [edi + 4], edx
    add edi, 8
    add eax, 9
    loop .Lnext_gate
    ret
END(early_idt_setup)

SECTION(.data)

OBJECT(initial_code, 4)
    .long i386_start_kernel
END(initial_code)

OBJECT(initial_stack, 4)
    .long init_stack_top
    .long KERNEL_DS
END(initial_stack)

OBJECT(boot_gdt_descr, 4)
    .word 0xff
    .long gdt - PAGE_OFFSET
END(boot_gdt_descr)

OBJECT(has_cpuid, 4)
    .long 0
END(has_cpuid)

SECTION(.bss)

OBJECT(initial_page_table, 4096)
    .skip 4096
END(initial_page_table)

OBJECT(lowmem_tables, 4096)
    .skip LOWMEM_TABLES * 4096
END(lowmem_tables)

OBJECT(boot_params, 4096)
    .skip 4096
END(boot_params)

OBJECT(init_stack, 4096)
    .skip 4096
END(init_stack)
GLOBAL(init_stack_top)

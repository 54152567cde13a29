# SPDX-License-Identifier: GPL-2.0-only OR MIT
# In which order the kernel does things: set up, start the second processor, run tasks, report.

#define APIC_EOI 0xfee000b0             # mapped where it is
#define APIC_SVR 0xfee000f0
#define APIC_ICR 0xfee00300
#define APIC_ICR_HIGH 0xfee00310
#define APIC_LINT0 0xfee00350
#define STOP_VECTOR 0xf0

SECTION(.text)

# in: paging on, interrupts off, flat segments, the first 4 MiB at 0 as well; never returns
FUNC(kernel_main)
    call console_init
    REPORT("MULTIBOOT kernel at its linked addresses, magic number %x", [loader_magic])
    mov eax, cpu_area
    mov edx, gdt + PERCPU_SEL
    call set_descriptor_base
    lgdt [gdt_descr]
    call segments_init
    call cpu_init
    call gates_init
    call directories_init
    call tasks_init
    call pic_init
    call count_processors
    cmp eax, 2
    jb .Lalone
    call start_second
.Lalone:
    call spread_tasks
    REPORT("processors: %x", [processor_count])
    mov dword ptr [tasks_may_run], 1
    jmp schedule
END(kernel_main)

# No selector of the loader stays. Clobbers EAX.
FUNC(segments_init)
    mov eax, PERCPU_SEL
    mov fs, eax
    xor eax, eax
    mov gs, eax
    ret
END(segments_init)

# Gates of the vectors that there are. Clobbers EAX, ECX, EDX, ESI.
FUNC(gates_init)
    mov esi, gates
.Lnext_gate_row:
    lodsd
    mov ecx, eax
    lodsd
    mov edx, eax
    lodsd
    call set_gate
    cmp esi, gates_end
    jb .Lnext_gate_row
    lidt [idt_descr]
    ret
END(gates_init)

# The kernel's directory: the first 4 MiB at PAGE_OFFSET, the APICs where they are. Clobbers EAX.
FUNC(directories_init)
    mov dword ptr [kernel_directory + 768 * 4], 0x83
    mov dword ptr [kernel_directory + 1019 * 4], 0xfec00093
    mov eax, kernel_directory - PAGE_OFFSET
    mov cr3, eax
    ret
END(directories_init)

# Let `EAX` ticks go by. Clobbers EAX.
FUNC(wait_ticks)
    add eax, [ticks]
.Lwait_more:
    sti
    hlt
    cli
    cmp [ticks], eax
    js .Lwait_more
    ret
END(wait_ticks)

# Copy its first code, and start the second processor. Clobbers EAX, ECX, EDX, ESI, EDI.
FUNC(start_second)
    mov dword ptr [APIC_LINT0], 0x700   # stays the wire from the 8259A
    mov dword ptr [APIC_SVR], 0x1ff
    mov esi, second_start
    mov edi, PAGE_OFFSET + TRAMPOLINE
    mov ecx, second_end
    sub ecx, esi
    rep movsb
    mov edx, [second_apic_id]
    shl edx, 24
    mov [APIC_ICR_HIGH], edx
    mov dword ptr [APIC_ICR], 0x4500    # INIT
    mov eax, 2
    call wait_ticks
    mov [APIC_ICR_HIGH], edx
    mov dword ptr [APIC_ICR], 0x4600 + TRAMPOLINE / 4096
    mov ecx, 100
.Lnot_yet_up:
    cmp dword ptr [processor_count], 2
    je .Lsecond_is_up
    mov eax, 1
    call wait_ticks
    loop .Lnot_yet_up
.Lsecond_is_up:
    ret
END(start_second)

# The second processor at linked addresses. in: paging on, no stack; never returns
FUNC(second_main)
    mov esp, second_stack_top
    lgdt [gdt_descr]
    lidt [idt_descr]
    call segments_init
    mov eax, kernel_directory - PAGE_OFFSET
    mov cr3, eax
    mov dword ptr [gdt + SECOND_TSS_SEL], 0x67
    mov dword ptr [gdt + SECOND_TSS_SEL + 4], 0x8900
    mov eax, second_tss
    mov edx, gdt + SECOND_TSS_SEL
    call set_descriptor_base
    mov eax, SECOND_TSS_SEL
    ltr ax
    mov dword ptr [APIC_SVR], 0x1ff
    mov dword ptr [processor_count], 2
.Lnot_yet:
    pause
    cmp dword ptr [tasks_may_run], 0
    je .Lnot_yet
    jmp schedule
END(second_main)

# An interrupt of the boot processor: all tasks have ended. never returns
FUNC(entry_stop)
    mov dword ptr ss:[APIC_EOI], 0
    mov dword ptr ss:[second_has_stopped], 1
.Lstopped:
    cli
    hlt
    jmp .Lstopped
END(entry_stop)

# All tasks have ended: say what they did. The other processor waits for an interrupt.
FUNC(all_ended)
    call this_cpu
    test eax, eax
    jz .Lboot_processor
.Lwait_for_stop:
    sti
    hlt
    jmp .Lwait_for_stop
.Lboot_processor:
    cmp dword ptr [processor_count], 2
    jb .Lall_stopped
    mov eax, [second_apic_id]
    shl eax, 24
    mov [APIC_ICR_HIGH], eax
    mov dword ptr [APIC_ICR], 0x4000 + STOP_VECTOR
.Lwait_for_second:
    pause
    cmp dword ptr [second_has_stopped], 0
    je .Lwait_for_second
.Lall_stopped:
    mov ebx, task_main
.Lnext_report:
    REPORT("task %x: calls %x sum %x", [ebx + TASK_NUMBER], [ebx + TASK_CALLS], [ebx + TASK_SUM])
    REPORT("  faults %x processors %x", [ebx + TASK_FAULTS], [ebx + TASK_CPUS])
    add ebx, TASK_LEN
    cmp ebx, task_end
    jb .Lnext_report
    REPORT("tasks: total %x", [total])
    jmp machine_shutdown
END(all_ended)

SECTION(.rodata)

# Vector, kind of gate, handler.
OBJECT(gates, 4)
    .long 0x06, 0x8e00, entry_bug
    .long 0x0d, 0x8e00, entry_protection
    .long 0x0e, 0x8e00, entry_bug
    .long 0x20, 0x8e00, entry_tick
    .long CALL_VECTOR, 0xee00, entry_call
    .long STOP_VECTOR, 0x8e00, entry_stop
END(gates)
GLOBAL(gates_end)

SECTION(.data)

OBJECT(processor_count, 4)
    .long 1
END(processor_count)

OBJECT(second_tss, 128)
    .long 0, 0, KERNEL_DS
    .skip 88
    .word 0, 104
END(second_tss)

SECTION(.bss)

OBJECT(kernel_directory, 4096)
    .skip 4096
END(kernel_directory)

OBJECT(ticks, 4)
    .skip 4
END(ticks)

OBJECT(tasks_may_run, 4)
    .skip 4
END(tasks_may_run)

OBJECT(second_has_stopped, 4)
    .skip 4
END(second_has_stopped)

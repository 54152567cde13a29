# SPDX-License-Identifier: GPL-2.0-only OR MIT
# In which order the guest does things: set up, observe, drop init memory, ring 3, shut down.

SECTION(.init.text)

# in: interrupts off, early IDT; never returns
FUNC(start_kernel)
    call trap_init
    call cpu_init
    call paging_init
    call irq_init
    mov esi, init_calls
.Lnext_call:
    lodsd
    test eax, eax
    jz .Lcalls_done
    push esi
    call eax
    pop esi
    jmp .Lnext_call
.Lcalls_done:
    jmp rest_init
END(start_kernel)

SECTION(.text)

# What must not be in init memory: it goes away here.
FUNC(rest_init)
    mov edi, __init_begin
    mov ecx, __init_end
    sub ecx, edi
    mov al, 0xcc
    rep stosb
    REPORT("init memory: poisoned")
    mov esi, observers
    mov ebx, observers_end
.Lnext_observer:
    push ebx
    push esi
    call dword ptr [esi]
    pop esi
    pop ebx
    add esi, 4
    cmp esi, ebx
    jb .Lnext_observer
    jmp machine_shutdown
END(rest_init)

SECTION(.init.data)

# Functions of init memory, ended by 0.
OBJECT(init_calls, 4)
    .long observe_early_flags
    .long observe_paravirt
    .long observe_tables
    .long observe_control
    .long 0
END(init_calls)

SECTION(.rodata)

OBJECT(observers, 4)
    .long observe_flags
    .long observe_halt
    .long observe_ports
    .long observe_segments
    .long observe_bad_selectors
    .long observe_far
    .long observe_debug
    .long observe_cpuid
    .long observe_msr
    .long observe_time
    .long observe_optional
    .long observe_interrupts
    .long observe_iret
    .long observe_faults
    .long observe_switch
    .long observe_pages
    .long observe_tasks
    .long observe_preemption
    .long observe_processors
    .long run_user
END(observers)
GLOBAL(observers_end)

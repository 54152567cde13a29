# SPDX-License-Identifier: GPL-2.0-only OR MIT
# How kernel tasks share the CPU: creation, the switch itself, yielding and being preempted.

SECTION(.text)

# Save the registers that functions keep, and the flags; go on with those of another task.
# in: EAX = task to leave, EDX = task to enter; returns in the other task
FUNC(__switch_to_asm)
    push ebp
    push ebx
    push edi
    push esi
    pushfd
    mov [eax + TASK_SP], esp
    mov esp, [edx + TASK_SP]
    popfd
    pop esi
    pop edi
    pop ebx
    pop ebp
    jmp_near __switch_to
END(__switch_to_asm)

# Where ring 3 would enter the kernel from now on. in: EDX = task; clobbers ECX
FUNC(__switch_to)
    mov ecx, [edx + TASK_SP0]
    mov [tss + 4], ecx
    ret
END(__switch_to)

# Run the next task of the ring, if there is another. Clobbers EAX, ECX, EDX.
FUNC(schedule)
    mov eax, fs:[CPU_CURRENT]
    mov edx, [eax + TASK_NEXT]
    cmp eax, edx
    je .Lalone
    inc dword ptr [switch_count]
    mov fs:[CPU_CURRENT], edx
    call __switch_to_asm
.Lalone:
    ret
END(schedule)

# Put a new task after the current one. in: EAX = task, EDX = its function; clobbers ECX
FUNC(kernel_thread)
    mov ecx, [eax + TASK_SP0]
    sub ecx, 24
    mov dword ptr [ecx], 2
    mov dword ptr [ecx + 4], 0
    mov dword ptr [ecx + 8], 0
    mov [ecx + 12], edx
    mov dword ptr [ecx + 16], 0
    mov dword ptr [ecx + 20], ret_from_fork
    mov [eax + TASK_SP], ecx
    mov ecx, fs:[CPU_CURRENT]
    push dword ptr [ecx + TASK_NEXT]
    pop dword ptr [eax + TASK_NEXT]
    mov [ecx + TASK_NEXT], eax
    ret
END(kernel_thread)

# First code of a new task, and its end. in: EBX = function; interrupts off
FUNC(ret_from_fork)
    call ebx
    cli
    mov eax, fs:[CPU_CURRENT]
    mov edx, task_main
.Lfind_previous:
    cmp [edx + TASK_NEXT], eax
    je .Lunlink
    mov edx, [edx + TASK_NEXT]
    jmp .Lfind_previous
.Lunlink:
    mov ecx, [eax + TASK_NEXT]
    mov [edx + TASK_NEXT], ecx
    inc dword ptr [exit_count]
    # The ring no longer holds this task: enter its successor, never to come back.
    mov edx, ecx
    mov fs:[CPU_CURRENT], edx
    call __switch_to_asm
    ud2
END(ret_from_fork)

# Two tasks and the caller pass the CPU on; each has an interrupt flag of its own.
FUNC(observe_tasks)
    mov eax, task_a
    mov edx, [thread_functions]
    call kernel_thread
    mov eax, task_b
    mov edx, [thread_functions + 4]
    call kernel_thread
    mov ebx, 1
.Lmain_step:
    sti
    call schedule
    READ_IF eax
    REPORT("task main: step %x if=%x", ebx, eax)
    inc ebx
    cmp ebx, 4
    jb .Lmain_step
    REPORT("tasks: ended %x", [exit_count])
    ret
END(observe_tasks)

# Runs with interrupts off, twice.
FUNC(thread_quiet)
    mov ebx, 1
.Lquiet_step:
    READ_IF eax
    REPORT("task quiet: step %x if=%x", ebx, eax)
    call schedule
    inc ebx
    cmp ebx, 3
    jb .Lquiet_step
    ret
END(thread_quiet)

# Runs with interrupts on, twice; a callee-saved register must survive.
FUNC(thread_open)
    sti
    mov ebx, 1
    mov esi, 0xabcd
.Lopen_step:
    READ_IF eax
    REPORT("task open: step %x if=%x esi=%x", ebx, eax, esi)
    call schedule
    inc ebx
    cmp ebx, 3
    jb .Lopen_step
    ret
END(thread_open)

# Two tasks that never yield; only the tick can switch them.
FUNC(observe_preemption)
    mov eax, task_a
    mov edx, [thread_functions + 8]
    call kernel_thread
    mov eax, task_b
    mov edx, [thread_functions + 8]
    call kernel_thread
    mov dword ptr [exit_count], 0
    mov dword ptr fs:[CPU_PREEMPT], 1
    mov edi, [switch_count]
    add edi, 9
.Lwait_for_switches:
    sti
    hlt
    cmp [switch_count], edi
    js .Lwait_for_switches
    mov dword ptr [stop_spinning], 1
.Lwait_for_ends:
    sti
    hlt
    cmp dword ptr [exit_count], 2
    jne .Lwait_for_ends
    mov dword ptr fs:[CPU_PREEMPT], 0
    xor eax, eax
    cmp dword ptr [task_a + 12], 100
    seta al
    xor edx, edx
    cmp dword ptr [task_b + 12], 100
    seta dl
    REPORT("preemption: first ran: %y, second ran: %y, ended %x", eax, edx, [exit_count])
    REPORT("preemption: ticks that came with if=0: %x", [ticks_without_if])
    ret
END(observe_preemption)

# Count until told to stop; flags and registers must survive being preempted.
FUNC(thread_spin)
    mov esi, fs:[CPU_CURRENT]
    sti
    xor ebx, ebx
.Lspin:
    inc ebx
    inc dword ptr [esi + 12]
    cmp ebx, [esi + 12]
    jne .Lspin_broken
    pause
    cmp dword ptr [stop_spinning], 0
    je .Lspin
    ret
.Lspin_broken:
    REPORT("PANIC: a preempted task lost a register")
    jmp machine_halt
END(thread_spin)

SECTION(.rodata)

OBJECT(thread_functions, 4)
    .long thread_quiet, thread_open, thread_spin
END(thread_functions)

SECTION(.data)

# struct task: saved ESP, stack end, next, a counter.
OBJECT(task_main, 4)
    .long 0, init_stack_top, task_main, 0
END(task_main)

OBJECT(task_a, 4)
    .long 0, task_a_stack_top, 0, 0
END(task_a)

OBJECT(task_b, 4)
    .long 0, task_b_stack_top, 0, 0
END(task_b)

SECTION(.bss)

OBJECT(task_a_stack, 4096)
    .skip 4096
END(task_a_stack)
GLOBAL(task_a_stack_top)

OBJECT(task_b_stack, 4096)
    .skip 4096
END(task_b_stack)
GLOBAL(task_b_stack_top)

OBJECT(switch_count, 4)
    .skip 4
END(switch_count)

OBJECT(exit_count, 4)
    .skip 4
END(exit_count)

OBJECT(stop_spinning, 4)
    .skip 4
END(stop_spinning)

# SPDX-License-Identifier: GPL-2.0-only OR MIT
# How tasks of ring 3 share two processors: each entry of the kernel saves the whole frame in the
# task, does what is wanted, and goes on with the next task of this processor.

#define CALL_VECTOR 0x30                # number in EAX, argument in EBX, result in EAX
#define CALL_ADD 0
#define CALL_YIELD 1
#define CALL_PROCESSOR 2
#define CALL_EXIT 3

#define TASKS 4
#define TASK_NUMBER 0
#define TASK_CPU 4                      # 0 or 4
#define TASK_HAS_ENDED 8
#define TASK_CALLS 12
#define TASK_SUM 16
#define TASK_FAULTS 20
#define TASK_CPUS 24                    # a bit for each processor that it called from
#define TASK_CR3 28
#define TASK_FRAME 32
#define FRAME_WORDS 18
#define TASK_LEN 128

SECTION(.text)

# Which processor this is. out: EAX = 0 or 4; clobbers ECX
FUNC(this_cpu)
    str eax
    xor ecx, ecx
    cmp ax, TSS_SEL
    setne cl
    lea eax, [ecx * 4]
    ret
END(this_cpu)

FUNC(entry_call)
    push 0
    push CALL_VECTOR
    SAVE_ALL
    jmp from_task
END(entry_call)

# A tick may also come while the boot processor waits.
FUNC(entry_tick)
    push 0
    push 0x20
    SAVE_ALL
    mov al, 0x20
    out 0x20, al
    inc dword ptr [ticks]
    test byte ptr [esp + REG_CS], 2
    jnz from_task
    RESTORE_ALL
    iretd
END(entry_tick)

# General protection: a task's instruction of one byte is skipped and counted.
FUNC(entry_protection)
    push 0x0d
    SAVE_ALL
    test byte ptr [esp + REG_CS], 2
    jz kernel_bug
    jmp from_task
END(entry_protection)

FUNC(entry_bug)
    push 0
    push 0x0e
    SAVE_ALL
    jmp kernel_bug
END(entry_bug)

FUNC(kernel_bug)
    mov eax, [esp + REG_VECTOR]
    mov ecx, [esp + REG_IP]
    REPORT("PANIC: vector %x at %x", eax, ecx)
.Lpanic:
    cli
    hlt
    jmp .Lpanic
END(kernel_bug)

# in: a frame of ring 3 on the stack; never returns
FUNC(from_task)
    call this_cpu
    mov ebx, [current_tasks + eax]
    mov esi, esp
    lea edi, [ebx + TASK_FRAME]
    mov ecx, FRAME_WORDS
    rep movsd
    mov ecx, [ebx + TASK_FRAME + REG_VECTOR]
    cmp ecx, CALL_VECTOR
    je .Lcall
    cmp ecx, 0x0d
    jne .Lentry_done
    inc dword ptr [ebx + TASK_FAULTS]
    inc dword ptr [ebx + TASK_FRAME + REG_IP]
    jmp .Lentry_done
.Lcall:
    inc dword ptr [ebx + TASK_CALLS]
    mov edx, eax
    mov ecx, [ebx + TASK_FRAME + REG_AX]
    cmp ecx, CALL_EXIT
    ja .Lentry_done
    call dword ptr [calls + ecx * 4]
    mov [ebx + TASK_FRAME + REG_AX], eax
.Lentry_done:
    jmp schedule
END(from_task)

# Calls. in: EBX = task, EDX = processor, 0 or 4; out: EAX = result; clobber ECX
FUNC(call_add)
    mov eax, [ebx + TASK_FRAME + REG_BX]
    add [ebx + TASK_SUM], eax
    lock add [total], eax
    mov ecx, edx
    shr ecx, 2
    mov edx, 1
    shl edx, cl
    or [ebx + TASK_CPUS], edx
    mov eax, [ebx + TASK_SUM]
    ret
END(call_add)

FUNC(call_yield)
    xor eax, eax
    ret
END(call_yield)

FUNC(call_processor)
    mov eax, edx
    shr eax, 2
    ret
END(call_processor)

FUNC(call_exit)
    mov dword ptr [ebx + TASK_HAS_ENDED], 1
    lock inc dword ptr [ended_count]
    xor eax, eax
    ret
END(call_exit)

# Go on with the next task of this processor, or wait. never returns
FUNC(schedule)
    call this_cpu
    mov esp, [stack_tops + eax]
    mov ebx, [current_tasks + eax]
    mov ecx, TASKS
.Lnext_task:
    add ebx, TASK_LEN
    cmp ebx, task_end
    jb .Lis_task
    mov ebx, task_main
.Lis_task:
    cmp [ebx + TASK_CPU], eax
    jne .Lother_task
    cmp dword ptr [ebx + TASK_HAS_ENDED], 0
    je .Lenter_task
.Lother_task:
    loop .Lnext_task
    cmp dword ptr [ended_count], TASKS
    je all_ended
    test eax, eax
    jnz all_ended
    sti
    hlt
    cli
    jmp schedule
.Lenter_task:
    mov [current_tasks + eax], ebx
    mov ecx, [ebx + TASK_CR3]
    mov cr3, ecx
    sub esp, FRAME_WORDS * 4
    lea esi, [ebx + TASK_FRAME]
    mov edi, esp
    mov ecx, FRAME_WORDS
    rep movsd
    RESTORE_ALL
    iretd
END(schedule)

# Address spaces and first frames of all tasks. Clobbers all but ESP.
FUNC(tasks_init)
    mov dword ptr [second_tss + 4], second_stack_top
    mov ebx, task_main
    xor ebp, ebp
.Lnext_to_make:
    mov [ebx + TASK_NUMBER], ebp
    # Four pages each: directory, table, code, stack.
    mov eax, ebp
    shl eax, 14
    lea edx, [eax + task_pages]
    mov esi, kernel_directory
    mov edi, edx
    mov ecx, 1024
    rep movsd
    lea eax, [edx + 0x1007 - PAGE_OFFSET]
    mov [edx + 32 * 4], eax
    lea eax, [edx + 0x2007 - PAGE_OFFSET]
    mov [edx + 0x1000 + 0x48 * 4], eax
    lea eax, [edx + 0x3007 - PAGE_OFFSET]
    mov [edx + 0x1000 + 0x4a * 4], eax
    mov esi, user_image
    lea edi, [edx + 0x2000]
    mov ecx, user_image_end
    sub ecx, esi
    rep movsb
    sub edx, PAGE_OFFSET
    mov [ebx + TASK_CR3], edx
    mov [ebx + TASK_FRAME + REG_BX], ebp
    mov dword ptr [ebx + TASK_FRAME + REG_DS], USER_DS
    mov dword ptr [ebx + TASK_FRAME + REG_DS + 4], USER_DS
    mov dword ptr [ebx + TASK_FRAME + REG_IP], USER_BASE
    mov dword ptr [ebx + TASK_FRAME + REG_CS], USER_CS
    mov dword ptr [ebx + TASK_FRAME + REG_FLAGS], 0x202
    mov dword ptr [ebx + TASK_FRAME + REG_SP], USER_STACK
    mov dword ptr [ebx + TASK_FRAME + REG_SP + 4], USER_DS
    add ebx, TASK_LEN
    inc ebp
    cmp ebp, TASKS
    jb .Lnext_to_make
    ret
END(tasks_init)

# Every other task is the second processor's, if there is one. Clobbers EBX, ECX.
FUNC(spread_tasks)
    cmp dword ptr [processor_count], 2
    jb .Lspread
    mov ebx, task_main
.Lnext_to_spread:
    mov ecx, [ebx + TASK_NUMBER]
    and ecx, 1
    shl ecx, 2
    mov [ebx + TASK_CPU], ecx
    add ebx, TASK_LEN
    cmp ebx, task_end
    jb .Lnext_to_spread
.Lspread:
    ret
END(spread_tasks)

SECTION(.rodata)

OBJECT(calls, 4)
    .long call_add, call_yield, call_processor, call_exit
END(calls)

# A program for USER_BASE. in: EBX = number of the task
OBJECT(user_image, 16)
    mov edi, ebx
    mov esi, 24
.Luser_round:
    mov ecx, 100000
.Luser_work:
    loop .Luser_work
    mov eax, CALL_ADD
    lea ebx, [esi + edi]
    int CALL_VECTOR
    mov eax, CALL_YIELD
    int CALL_VECTOR
    dec esi
    jnz .Luser_round
    cli
    mov eax, CALL_PROCESSOR
    int CALL_VECTOR
    hlt
    mov eax, CALL_EXIT
    int CALL_VECTOR
END(user_image)
GLOBAL(user_image_end)

SECTION(.data)

# By processor.
OBJECT(current_tasks, 4)
    .long task_main, task_main
END(current_tasks)

OBJECT(stack_tops, 4)
    .long init_stack_top, second_stack_top
END(stack_tops)

SECTION(.bss)

OBJECT(task_main, 128)
    .skip TASKS * TASK_LEN
END(task_main)
GLOBAL(task_end)

OBJECT(task_pages, 4096)
    .skip TASKS * 4 * 4096
END(task_pages)

OBJECT(total, 4)
    .skip 4
END(total)

OBJECT(ended_count, 4)
    .skip 4
END(ended_count)

# SPDX-License-Identifier: GPL-2.0-only OR MIT
# What software interrupts, IRET and faults of the kernel itself do.

SECTION(.text)

# INT3, INTO, INT n through gates of the kernel.
FUNC(observe_interrupts)
    mov ebx, [trap_counts + 12]
    int3
    mov ecx, [trap_counts + 12]
    sub ecx, ebx
    READ_IF eax
    REPORT("int3: counted %x if=%x", ecx, eax)
    mov ebx, [trap_counts + 16]
    xor eax, eax
    into
    mov ecx, [trap_counts + 16]
    sub ecx, ebx
    mov eax, 0x7fffffff
    inc eax
    into
    mov edx, [trap_counts + 16]
    sub edx, ebx
    REPORT("into: without overflow %x with %x", ecx, edx)
    mov eax, 0x41
    int 0x82
    mov ebx, eax
    cli
    int 0x82
    READ_IF ecx
    sti
    REPORT("int n: answers %x %x if=%x", ebx, eax, ecx)
    ret
END(observe_interrupts)

# IRET to the kernel: it sets all flags, among them IF, and takes a CS with RPL 0.
FUNC(observe_iret)
    mov esi, esp
    cli
    push 0xa97
    push KERNEL_CS
    push_label iret_with_if
    iretd
    ud2
iret_with_if:
    READ_FLAGS ebx
    push 0x46
    push cs
    push_label iret_without_if
    iretd
    ud2
iret_without_if:
    READ_FLAGS ecx
    sti
    and ebx, 0xed7
    and ecx, 0xed7
    xor eax, eax
    cmp esi, esp
    sete al
    REPORT("iret: flags %x then %x, stack as before: %y", ebx, ecx, eax)

    # sync_core's way of serializing.
    pushfd
    push cs
    push_label iret_same_flags
    iretd
iret_same_flags:
    READ_IF ebx
    REPORT("iret: keeps if=%x", ebx)

    # A frame that cannot be returned to faults at the IRET, with the frame still on the stack.
    mov esi, esp
    push 0x202
    push BEYOND_SEL
    push_label iret_same_flags
    mov edi, esp
    mov eax, NO_FAULT
    EX_NEXT iretd
    xor ecx, ecx
    cmp edi, esp
    sete cl
    mov esp, esi
    REPORT("iret: refused: vector %x error %x, frame kept: %y", eax, [last_error], ecx)
    ret
END(observe_iret)

# Faults by vector, each through the exception table.
FUNC(observe_faults)
    mov eax, NO_FAULT
    EX_NEXT ud2
    REPORT("ud2: vector %x", eax)
    xor ecx, ecx
    xor edx, edx
    mov eax, NO_FAULT
    EX_NEXT div ecx
    REPORT("div by zero: vector %x", eax)
    mov ecx, 5
    mov eax, NO_FAULT
    EX_NEXT bound ecx, [bound_pair]
    REPORT("bound: vector %x", eax)
    # The flag after the fault is the one from before it.
    cli
    mov eax, NO_FAULT
    EX_NEXT ud2
    READ_IF ebx
    sti
    REPORT("fault after cli: vector %x if=%x", eax, ebx)
    # A fixup of the other type: EAX stays.
    mov eax, NO_FAULT
    EX(second_way) ud2
    REPORT("PANIC: ud2 went on")
second_way:
    REPORT("fault with a plain fixup: eax %x", eax)
    ret
END(observe_faults)

# A computed jump through a table in .rodata, and loops with branches that reach 127 bytes only.
FUNC(observe_switch)
    xor ebx, ebx
    mov ecx, 4
.Lnext_case:
    lea eax, [ecx - 1]
    jmp dword ptr [switch_table + eax * 4]
case_zero:
    add ebx, 1
    jmp .Lcase_done
case_one:
    add ebx, 0x10
    jmp .Lcase_done
case_two:
    cli
    READ_IF eax
    sti
    lea ebx, [ebx + eax + 0x100]
    jmp .Lcase_done
case_three:
    pushfd
    pop eax
    shr eax, 1
    and eax, 0x100
    lea ebx, [ebx + eax * 8 + 0x800]
.Lcase_done:
    loop .Lnext_case
    # Branches of one byte's reach over so many sites that a rewriter has to widen them: a jump
    # forward, a conditional jump forward and one back.
    mov ecx, 3
.Lwide_loop:
    test ecx, ecx
    js .Lwide_end
    jmp .Lwide_middle
.Lwide_back:
    dec ecx
    jz .Lwide_end
    jmp .Lwide_loop
.Lwide_middle:
    add ebx, 0x10000
    cli
    in al, 0x21
    sti
    pushfd
    popfd
    in al, 0x21
    cli
    in al, 0x21
    sti
    pushfd
    popfd
    in al, 0x21
    cli
    in al, 0x21
    sti
    pushfd
    popfd
    in al, 0x21
    cli
    in al, 0x21
    sti
    pushfd
    popfd
    in al, 0x21
    cli
    in al, 0x21
    sti
    pushfd
    popfd
    in al, 0x21
    cli
    in al, 0x21
    sti
    pushfd
    popfd
    in al, 0x21
    cli
    in al, 0x21
    sti
    pushfd
    popfd
    in al, 0x21
    cli
    in al, 0x21
    sti
    pushfd
    popfd
    in al, 0x21
    cli
    in al, 0x21
    sti
    pushfd
    popfd
    in al, 0x21
    cli
    in al, 0x21
    sti
    pushfd
    popfd
    in al, 0x21
    cli
    in al, 0x21
    sti
    pushfd
    popfd
    in al, 0x21
    cli
    in al, 0x21
    sti
    pushfd
    popfd
    in al, 0x21
    pushfd
    popfd
    jmp .Lwide_back
.Lwide_end:
    # loop and jecxz have no wider form; the sites between leave them within their reach.
    mov ecx, 3
.Lnarrow_loop:
    cli
    in al, 0x21
    sti
    jecxz .Lnarrow_end
    pushfd
    popfd
    add ebx, 0x100000
    loop .Lnarrow_loop
.Lnarrow_end:
    REPORT("switch and loops: %x", ebx)
    ret
END(observe_switch)

SECTION(.rodata)

OBJECT(switch_table, 4)
    .long case_zero, case_one, case_two, case_three
END(switch_table)

OBJECT(bound_pair, 4)
    .long 0, 4
END(bound_pair)

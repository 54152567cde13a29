# SPDX-License-Identifier: GPL-2.0-only OR MIT
# What the interrupt flag does: CLI, STI, PUSHF, POPF, HLT and the flags beside IF.
# Every IF printed here is the kernel's own: under a hypervisor the virtual one.

SECTION(.init.text)

# The same in init memory, which a rewriter lays out by other means.
FUNC(observe_early_flags)
    cli
    READ_IF ebx
    sti
    READ_IF ecx
    pushfd
    cli
    READ_IF edx
    popfd
    READ_IF esi
    REPORT("init flags: cli if=%x sti if=%x cli if=%x popf if=%x", ebx, ecx, edx, esi)
    ret
END(observe_early_flags)

SECTION(.text)

# Interrupts are on before and after. Clobbers all but ESP.
FUNC(observe_flags)
    cli
    READ_IF ebx
    sti
    READ_IF ecx
    REPORT("cli: if=%x", ebx)
    REPORT("sti: if=%x", ecx)

    # A critical section as in local_irq_save and local_irq_restore, nested.
    READ_FLAGS ebx
    cli
    READ_FLAGS ecx
    cli
    push ecx
    popfd
    READ_IF esi
    push ebx
    popfd
    READ_IF edi
    REPORT("popf: inner if=%x outer if=%x", esi, edi)

    # IF sites must keep the arithmetic flags: CF, PF, AF, ZF, SF, OF and DF are looked at.
    sub eax, eax
    stc
    cli
    READ_FLAGS ebx
    sti
    mov eax, 0x7fffffff
    add eax, 1
    cli
    setc al
    READ_FLAGS ecx
    sti
    std
    sub edx, edx
    cli
    sti
    READ_FLAGS edx
    cld
    and ebx, 0xcd5
    and ecx, 0xcd5
    and edx, 0xcd5
    REPORT("flags over cli and sti: %x %x %x", ebx, ecx, edx)

    # A branch on flags from before the site.
    mov eax, 5
    cmp eax, 7
    cli
    jb .Lbelow
    REPORT("PANIC: flags were lost")
.Lbelow:
    sti

    # popf sets what it is given: all arithmetic flags, DF, NT, AC, ID; IF stays on.
    push 0x244ed7
    popfd
    READ_FLAGS ebx
    push 0x202
    popfd
    READ_FLAGS ecx
    cld
    and ebx, 0x247fd7
    and ecx, 0x247fd7
    REPORT("popf: all flags %x no flags %x", ebx, ecx)

    # The 16-bit forms carry IF as well.
    pushf
    cli
    pushf
    movzx ebx, word ptr [esp]
    movzx ecx, word ptr [esp + 2]
    shr ebx, 9
    shr ecx, 9
    and ebx, 1
    and ecx, 1
    lea esp, [esp + 2]
    popf
    READ_IF edx
    REPORT("pushf 16 bit: inner if=%x outer if=%x popf if=%x", ebx, ecx, edx)

    # Flags read from the stack without a pop.
    pushfd
    test dword ptr [esp], FLAG_IF
    setnz bl
    movzx ebx, bl
    lea esp, [esp + 4]
    REPORT("pushf: tested on the stack if=%x", ebx)
    ret
END(observe_flags)

# The idle loop's pair, a plain HLT, and the interrupt shadow.
FUNC(observe_halt)
    cli
    mov ebx, [jiffies]
    sti
    hlt
    xor eax, eax
    cmp ebx, [jiffies]
    setne al
    READ_IF ecx
    REPORT("sti hlt: woken by a tick: %y if=%x", eax, ecx)
    mov ebx, [jiffies]
    hlt
    xor eax, eax
    cmp ebx, [jiffies]
    setne al
    REPORT("hlt: woken by a tick: %y", eax)

    # With interrupts off no tick is seen, however long; it arrives when they are on.
    cli
    mov ebx, [jiffies]
    mov ecx, 3000000
.Lbusy:
    dec ecx
    jnz .Lbusy
    xor edx, edx
    cmp ebx, [jiffies]
    setne dl
    sti
    nop
    mov eax, 1
    call wait_ticks
    xor ecx, ecx
    cmp ebx, [jiffies]
    setne cl
    REPORT("ticks: after cli: %y, after sti: %y", edx, ecx)
    ret
END(observe_halt)

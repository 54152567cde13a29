# SPDX-License-Identifier: GPL-2.0-only OR MIT
# What a kernel with CONFIG_PARAVIRT does at boot: calls through pointers give way to instructions,
# copied from between two labels (arch/x86/kernel/paravirt_patch_32.c, up to Linux 5.2). The copies
# are sites that no rewriter has seen: a hypervisor's guest has to do without them.

SECTION(.init.text)

# As apply_paravirt: the instructions and nops over each place of the table, if they fit.
# Clobbers EAX, EBX, ECX, EDX, ESI, EDI.
FUNC(apply_paravirt)
    cmp dword ptr [noreplace_paravirt], 0
    jne .Lreplaced
    mov ebx, __parainstructions
.Lnext_place:
    cmp ebx, __parainstructions_end
    jae .Lreplaced
    mov edi, [ebx]
    movzx edx, byte ptr [ebx + 5]
    mov esi, start_pv_irq_ops_irq_disable
    mov ecx, end_pv_irq_ops_irq_disable
    sub ecx, esi
    sub edx, ecx
    jb .Lplace_done
    rep movsb
    mov ecx, edx
    mov al, 0x90
    rep stosb
.Lplace_done:
    add ebx, 8
    jmp .Lnext_place
.Lreplaced:
    ret
END(apply_paravirt)

# Interrupts are on before and after.
FUNC(observe_paravirt)
    call apply_paravirt
    call irq_disable
    READ_IF ebx
    sti
    READ_IF ecx
    REPORT("paravirt: cli if=%x sti if=%x", ebx, ecx)
    ret
END(observe_paravirt)

SECTION(.text)

FUNC(irq_disable)
GLOBAL(irq_disable_place)
    call dword ptr [pv_irq_disable]
    ret
END(irq_disable)

FUNC(native_irq_disable)
    cli
    ret
END(native_irq_disable)

GLOBAL(start_pv_irq_ops_irq_disable)
    cli
GLOBAL(end_pv_irq_ops_irq_disable)

SECTION(.init.data)

# struct paravirt_patch_site: place, type, length, registers that may be clobbered.
GLOBAL(__parainstructions)
    .long irq_disable_place
    .byte 0, 6
    .word 0
GLOBAL(__parainstructions_end)

SECTION(.data)

OBJECT(pv_irq_disable, 4)
    .long native_irq_disable
END(pv_irq_disable)

# The kernel parameter of this name sets it, and so does who runs the kernel on a ROM.
OBJECT(noreplace_paravirt, 4)
    .long 0
END(noreplace_paravirt)

# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Where the callers of start_kernel arrive.
#
# In:    what the kernel passes to start_kernel; interrupts are off, paging is on, one processor
# Out:   the same; start_kernel is entered by a jump, as if its caller had called it
# Keeps: every general register; if the ROM switched, CS and SS have another RPL
#
# Throughout: EBP = run-time address minus linked address (what KASLR added), EDI = the ROM.
# All addresses in this code are linked ones; the words are not in the relocation list.

vmi_start:
    pushad
    cld
    call vmi_here
vmi_here:
    pop ebp
    sub ebp, vmi_here

    call vmi_find_rom               # EDI = ROM or 0, EAX = message
    test edi, edi
    jz vmi_native
    call vmi_check_kernel           # EAX = message or 0
    test eax, eax
    jnz vmi_native

    lea ecx, [edi + 0x80]
    push ebp
    push edi
    call ecx                        # VMI_Init: EAX = 0, the kernel runs paravirtually now
    pop edi
    pop ebp
    test eax, eax
    mov eax, vmi_said_init
    jnz vmi_native

    call vmi_bring_in
    call vmi_announce
    call vmi_patch                  # ECX = sites patched, EDX = sites left
    mov eax, vmi_said_totals
    call vmi_log
    jmp vmi_done

vmi_native:
    call vmi_log
vmi_done:
    popad
    jmp fact_start_kernel

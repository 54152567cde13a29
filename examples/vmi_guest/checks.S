# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Every call, with what it must give and what it must leave alone.

all_checks:
    call interrupt_checks
    call waiting_checks
    call register_checks
    call table_checks
    call memory_checks
    call fixmap_checks
    call return_checks
    call port_checks
    call time_checks
    call apic_checks
    ret

interrupt_checks:
    VMI(DISABLE_INTERRUPTS)
    VMI(GET_INTERRUPT_MASK)
    CHECK("IF after DisableInterrupts", eax, 0)
    VMI(ENABLE_INTERRUPTS)
    VMI(GET_INTERRUPT_MASK)
    CHECK("IF after EnableInterrupts", eax, 0x200)
    mov eax, 0xfffffdff
    VMI(SET_INTERRUPT_MASK)
    VMI(GET_INTERRUPT_MASK)
    CHECK("IF after SetInterruptMask 0", eax, 0)
    mov eax, 0x200
    VMI(SET_INTERRUPT_MASK)
    VMI(GET_INTERRUPT_MASK)
    CHECK("IF after SetInterruptMask 0x200", eax, 0x200)
    VMI(DISABLE_INTERRUPTS)
    VMI(GET_INTERRUPT_MASK)
    CHECK("IF after DisableInterrupts", eax, 0)
    VMI(IO_DELAY)
    ret

# A tick that waits is delivered by each call that sets IF, before the next instruction.
waiting_checks:
    VMI(DISABLE_INTERRUPTS)
    call let_tick_wait
    VMI(ENABLE_INTERRUPTS)
    CHECK("tick that waited for EnableInterrupts", dword ptr [ticks], 1)
    VMI(DISABLE_INTERRUPTS)
    call let_tick_wait
    mov eax, 0
    VMI(SET_INTERRUPT_MASK)
    CHECK("no tick by SetInterruptMask 0", dword ptr [ticks], 0)
    mov eax, 0x200
    VMI(SET_INTERRUPT_MASK)
    CHECK("tick that waited for SetInterruptMask", dword ptr [ticks], 1)
    VMI(DISABLE_INTERRUPTS)
    call let_tick_wait
    VMI(HALT)
    CHECK("tick that waited for Halt", dword ptr [ticks], 1)
    VMI(GET_INTERRUPT_MASK)
    CHECK("IF after Halt", eax, 0x200)
    VMI(DISABLE_INTERRUPTS)
    call let_tick_wait
    pushfd
    or dword ptr [esp], 0x200
    mov eax, cs
    push eax
    lea eax, [behind_tick]
    push eax
    VMI_RAW(IRET)
behind_tick:
    CHECK("tick that waited for IRET", dword ptr [ticks], 1)
    VMI(DISABLE_INTERRUPTS)
    ret

register_checks:
    mov eax, 0
    mov ecx, 0
    VMI(CPUID)
    CHECK("CPUID has leaf 1", eax, eax)
    mov eax, 0x12345678
    VMI(SET_CR2)
    VMI(GET_CR2)
    CHECK("CR2", eax, 0x12345678)
    VMI(GET_CR0)
    mov ebx, eax
    or eax, 8
    VMI(SET_CR0)
    VMI(GET_CR0)
    mov edx, ebx
    or edx, 8
    CHECK("TS after SetCR0", eax, edx)
    VMI(CLTS)
    VMI(GET_CR0)
    CHECK("TS after CLTS", eax, ebx)
    VMI(GET_CR4)
    mov ebx, eax
    or eax, 0x80
    VMI(SET_CR4)
    VMI(GET_CR4)
    or ebx, 0x80
    CHECK("PGE after SetCR4", eax, ebx)
    VMI(GET_CR3)
    CHECK("CR3", eax, DIRECTORY)
    mov eax, DIRECTORY_2
    VMI(SET_CR3)
    VMI(GET_CR3)
    CHECK("CR3 after SetCR3", eax, DIRECTORY_2)
    mov dword ptr [FRAME_A], 0xaaaa
    mov dword ptr [FRAME_B], 0xbbbb
    mov dword ptr [PAGE_TABLE], FRAME_A + 7
    mov eax, dword ptr [WINDOW]
    CHECK("page in front of SetCR3", eax, 0xaaaa)
    mov dword ptr [PAGE_TABLE], FRAME_B + 7
    mov eax, DIRECTORY
    VMI(SET_CR3)
    mov eax, dword ptr [WINDOW]
    CHECK("page after SetCR3", eax, 0xbbbb)
    mov dword ptr [PAGE_TABLE], 0
    mov eax, 3
    VMI(FLUSH_TLB)
    mov eax, 2
    mov edx, 0x4000
    VMI(SET_DR)
    mov eax, 2
    VMI(GET_DR)
    CHECK("DR2", eax, 0x4000)
    VMI(WBINVD)
    VMI(RDTSC)
    mov esi, eax
    mov edi, edx
    VMI(RDTSC)
    sub esi, eax
    sbb edi, edx
    sbb eax, eax
    CHECK("RDTSC runs forward", eax, 0xffffffff)
    mov ecx, 0x174                      # not called: this must fault at the kernel's own place
    mov eax, KERNEL_CS
    mov edx, 0
    VMI(WRMSR)
    mov ecx, 0x174
    VMI(RDMSR)
    CHECK("SYSENTER_CS", eax, KERNEL_CS)
    mov dword ptr [resume_esp], esp     # nor this; most processors refuse it
    lea eax, [behind_rdpmc]
    mov dword ptr [resume], eax
    mov dword ptr [fault_eip], site_of_rdpmc
    mov ecx, 0
    SITE(RDPMC, site_of_rdpmc)
    mov dword ptr [resume], 0
behind_rdpmc:
    mov eax, API                        # API 13 has no NONE, and lets EIP be in the ROM
    sub eax, 13
    or eax, dword ptr [ring]
    jz no_rdpmc_check
    CHECK("place of a fault of RDPMC", dword ptr [fault_eip], site_of_rdpmc)
no_rdpmc_check:
    mov eax, 0x3000
    VMI(SET_IOPL_MASK)
    mov eax, 0
    VMI(SET_IOPL_MASK)
    ret

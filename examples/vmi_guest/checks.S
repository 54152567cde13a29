# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Every call of API 3.0, with what it must give and what it must leave alone.

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
    CHECK("IF behind DisableInterrupts", eax, 0)
    VMI(ENABLE_INTERRUPTS)
    VMI(GET_INTERRUPT_MASK)
    CHECK("IF behind EnableInterrupts", eax, 0x200)
    mov eax, 0xfffffdff
    VMI(SET_INTERRUPT_MASK)
    VMI(GET_INTERRUPT_MASK)
    CHECK("IF behind SetInterruptMask 0", eax, 0)
    mov eax, 0x200
    VMI(SET_INTERRUPT_MASK)
    VMI(GET_INTERRUPT_MASK)
    CHECK("IF behind SetInterruptMask 0x200", eax, 0x200)
    VMI(DISABLE_INTERRUPTS)
    VMI(GET_INTERRUPT_MASK)
    CHECK("IF behind DisableInterrupts", eax, 0)
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
    CHECK("IF behind Halt", eax, 0x200)
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
    CHECK("TS behind SetCR0", eax, edx)
    VMI(CLTS)
    VMI(GET_CR0)
    CHECK("TS behind CLTS", eax, ebx)
    VMI(GET_CR4)
    mov ebx, eax
    or eax, 0x80
    VMI(SET_CR4)
    VMI(GET_CR4)
    or ebx, 0x80
    CHECK("PGE behind SetCR4", eax, ebx)
    VMI(GET_CR3)
    CHECK("CR3", eax, DIRECTORY)
    mov eax, DIRECTORY_2
    VMI(SET_CR3)
    VMI(GET_CR3)
    CHECK("CR3 behind SetCR3", eax, DIRECTORY_2)
    mov dword ptr [FRAME_A], 0xaaaa
    mov dword ptr [FRAME_B], 0xbbbb
    mov dword ptr [PAGE_TABLE], FRAME_A + 7
    mov eax, dword ptr [WINDOW]
    CHECK("page in front of SetCR3", eax, 0xaaaa)
    mov dword ptr [PAGE_TABLE], FRAME_B + 7
    mov eax, DIRECTORY
    VMI(SET_CR3)
    mov eax, dword ptr [WINDOW]
    CHECK("page behind SetCR3", eax, 0xbbbb)
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
    CHECK("place of a fault of RDPMC", dword ptr [fault_eip], site_of_rdpmc)
    mov eax, 0x3000
    VMI(SET_IOPL_MASK)
    mov eax, 0
    VMI(SET_IOPL_MASK)
    ret

table_checks:
    lea eax, [gdt_operand]
    VMI(SET_GDT)
    lea eax, [scratch]
    VMI(GET_GDT)
    CHECK("GDT base", dword ptr [scratch + 2], gdt)
    lea eax, [idt_operand]
    VMI(SET_IDT)
    lea eax, [scratch]
    VMI(GET_IDT)
    CHECK("IDT base", dword ptr [scratch + 2], IDT)
    mov eax, LDT_SELECTOR
    VMI(SET_LDT)
    VMI(GET_LDT)
    CHECK("LDT", eax, LDT_SELECTOR)
    lea eax, [gdt]                      # available again
    mov edx, TSS_SELECTOR / 8
    mov ecx, TSS_LOW
    PUSH(TSS_HIGH)
    VMI(WRITE_GDT_ENTRY)
    lea esp, [esp + 4]
    mov eax, TSS_SELECTOR
    VMI(SET_TR)
    VMI(GET_TR)
    CHECK("TR", eax, TSS_SELECTOR)
    lea eax, [gdt]                      # a segment that begins at a word of ours
    mov edx, 18
    mov ecx, checks_word
    shl ecx, 16
    mov cx, 0xffff
    mov ebx, checks_word
    shr ebx, 16
    and ebx, 0xff
    or ebx, 0x00cff200
    push ebx
    VMI(WRITE_GDT_ENTRY)
    lea esp, [esp + 4]
    mov eax, 0x93
    mov fs, ax
    CHECK("segment of WriteGDTEntry", dword ptr fs:[0], 0x600dc0de)
    mov eax, LDT
    mov edx, 1
    mov ecx, dword ptr [gdt + 8 * 18]
    push dword ptr [gdt + 8 * 18 + 4]
    VMI(WRITE_LDT_ENTRY)
    lea esp, [esp + 4]
    mov eax, 0x0f
    mov fs, ax
    CHECK("segment of WriteLDTEntry", dword ptr fs:[0], 0x600dc0de)
    mov eax, 0
    mov fs, ax
    mov dword ptr [LDT + 8], 0
    mov dword ptr [LDT + 12], 0
    mov eax, LDT                        # some kernels write the LDT by the call for the IDT
    mov edx, 1
    mov ecx, dword ptr [gdt + 8 * 18]
    push dword ptr [gdt + 8 * 18 + 4]
    VMI(WRITE_IDT_ENTRY)
    lea esp, [esp + 4]
    mov eax, 0x0f
    mov fs, ax
    CHECK("segment of WriteIDTEntry", dword ptr fs:[0], 0x600dc0de)
    mov eax, 0
    mov fs, ax
    mov eax, IDT
    mov edx, 0x50
    lea ecx, [gate_handler]
    and ecx, 0xffff
    or ecx, KERNEL_CS * 0x10000
    lea ebx, [gate_handler]
    and ebx, 0xffff0000
    or ebx, 0x8e00
    push ebx
    VMI(WRITE_IDT_ENTRY)
    lea esp, [esp + 4]
    mov ebx, 0
    int 0x50
    CHECK("gate of WriteIDTEntry", ebx, 0x50)
    ret

gate_handler:
    mov ebx, 0x50
    VMI_RAW(IRET)

memory_checks:
    mov eax, 0
    mov edx, PAGE_OFFSET
    mov ecx, 0x337fe                    # more than there is, as Linux says
    PUSH(0)
    VMI(SET_LINEAR_MAPPING)
    lea esp, [esp + 4]
    mov eax, PAGE_TABLE / 0x1000
    mov edx, 0x41
    mov ecx, 0
    PUSH(0)
    PUSH(0)
    VMI(ALLOCATE_PAGE)
    lea esp, [esp + 8]
    mov dword ptr [FRAME_A], 0xaaaa
    mov dword ptr [FRAME_B], 0xbbbb
    mov eax, FRAME_A + 7
    mov edx, PAGE_TABLE
    mov ecx, WINDOW + 0x11              # of the current address space
    VMI(SET_PXE)
    CHECK("page of SetPxE", dword ptr [WINDOW], 0xaaaa)
    mov eax, FRAME_B + 7
    mov edx, PAGE_TABLE
    mov ecx, WINDOW + 0x11
    VMI(SET_PXE)
    mov eax, WINDOW
    VMI(INVAL_PAGE)
    CHECK("page behind InvalPage", dword ptr [WINDOW], 0xbbbb)
    mov dword ptr [PAGE_TABLE], FRAME_A + 7
    mov eax, PAGE_TABLE
    mov edx, WINDOW + 0x11
    VMI(UPDATE_PXE)
    mov eax, 1
    VMI(FLUSH_TLB)
    CHECK("page behind FlushTLB", dword ptr [WINDOW], 0xaaaa)
    mov eax, FRAME_B + 0x107            # a global one
    mov edx, PAGE_TABLE
    mov ecx, 1
    VMI(SET_PXE)
    mov eax, 3
    VMI(FLUSH_TLB)
    CHECK("page behind a global FlushTLB", dword ptr [WINDOW], 0xbbbb)
    mov eax, 1
    VMI(SET_LAZY_MODE)
    mov eax, 0
    mov edx, PAGE_TABLE
    mov ecx, 1
    VMI(SET_PXE)
    mov eax, 0
    VMI(SET_LAZY_MODE)
    mov eax, 3
    VMI(FLUSH_TLB)
    lea eax, [no_page]
    mov dword ptr [resume], eax
    mov dword ptr [resume_esp], esp
    mov eax, dword ptr [WINDOW + 0x124]
    SAY("FAIL: a page without an entry")
no_page:
    CHECK("vector of a missing page", dword ptr [fault_vector], 14)
    CHECK("error of a missing page", dword ptr [fault_error], 0)
    VMI(GET_CR2)
    CHECK("CR2 of a missing page", eax, WINDOW + 0x124)
    mov eax, 0x89abc067
    mov edx, 0x12
    lea ecx, [scratch]
    PUSH(0x11)
    VMI(SET_PXE_LONG)
    lea esp, [esp + 4]
    CHECK("low half of SetPxELong", dword ptr [scratch], 0x89abc067)
    CHECK("high half of SetPxELong", dword ptr [scratch + 4], 0x12)
    lea eax, [scratch]
    mov edx, 0x11
    VMI(UPDATE_PXE_LONG)
    mov eax, 0                          # a clear, which never shows a half
    mov edx, 0
    lea ecx, [scratch]
    PUSH(0x11)
    VMI(SET_PXE_LONG)
    lea esp, [esp + 4]
    CHECK("low half of a clear", dword ptr [scratch], 0)
    CHECK("high half of a clear", dword ptr [scratch + 4], 0)
    mov esi, dword ptr [DIRECTORY + 768 * 4]
    mov eax, DIRECTORY / 0x1000         # in use, not empty, and cloned by the guest itself
    mov edx, 0x62
    mov ecx, DIRECTORY_2 / 0x1000
    PUSH(256)
    PUSH(768)
    VMI(ALLOCATE_PAGE)
    lea esp, [esp + 8]
    CHECK("entry behind AllocatePage", dword ptr [DIRECTORY + 768 * 4], esi)
    mov eax, PAGE_TABLE / 0x1000
    mov edx, 0x41
    VMI(RELEASE_PAGE)
    ret

# Linux has its fixed mappings below the hole, wherever the ROM says that it begins.
fixmap_checks:
    mov esi, dword ptr [rom]
    test esi, esi
    jz no_hole
    mov esi, dword ptr [esi + 0x10]
no_hole:
    sub esi, 0x2000
    mov edx, esi
    shr edx, 22
    lea edx, [4*edx + DIRECTORY]
    mov eax, FIX_TABLE + 7
    mov ecx, 2
    VMI(SET_PXE)
    mov edx, esi
    shr edx, 12
    and edx, 0x3ff
    lea edx, [4*edx + FIX_TABLE]
    mov eax, FRAME_A + 0x163
    lea ecx, [esi + 0x11]
    VMI(SET_PXE)
    mov eax, esi
    VMI(INVAL_PAGE)
    CHECK("page below the hole", dword ptr [esi], 0xaaaa)
    ret

return_checks:
    mov dword ptr [TSS + 4], OTHER_STACK
    mov eax, TSS                        # as the specification has it; the kernels pass a selector
    mov edx, OTHER_STACK
    VMI(UPDATE_KERNEL_STACK)
    mov eax, KERNEL_DS
    mov edx, OTHER_STACK
    VMI(UPDATE_KERNEL_STACK)
    pushfd                              # to the same ring, IF from the frame
    or dword ptr [esp], 0x200
    mov eax, cs
    push eax
    lea eax, [same_ring]
    push eax
    VMI_RAW(IRET)
    SAY("FAIL: IRET came back")
same_ring:
    VMI(GET_INTERRUPT_MASK)
    CHECK("IF of IRET's frame", eax, 0x200)
    VMI(DISABLE_INTERRUPTS)
    mov dword ptr [resume_esp], esp
    lea eax, [back_from_iret]
    mov dword ptr [resume_user], eax
    PUSH(USER_DS)
    PUSH(USER_STACK)
    PUSH(0x202)
    PUSH(USER_CS)
    lea eax, [user_code]
    push eax
    VMI_RAW(IRET)
back_from_iret:
    CHECK("ring of the user", dword ptr [user_cs], USER_CS)
    CHECK("stack of the user", dword ptr [user_stack], USER_STACK)
    CHECK("stack of UpdateKernelStack", dword ptr [user_esp], OTHER_STACK - 20)
    mov eax, dword ptr [user_flags]
    and eax, 0x3200
    CHECK("IF and IOPL of the user", eax, 0x200)
    VMI(GET_INTERRUPT_MASK)
    CHECK("IF behind an interrupt gate", eax, 0)
    mov eax, 0x3000
    VMI(SET_IOPL_MASK)
    mov dword ptr [resume_esp], esp
    lea eax, [back_with_iopl]
    mov dword ptr [resume_user], eax
    PUSH(USER_DS)
    PUSH(USER_STACK)
    PUSH(0x3202)
    PUSH(USER_CS)
    lea eax, [user_code]
    push eax
    VMI_RAW(IRET)
back_with_iopl:
    mov eax, dword ptr [user_flags]
    and eax, 0x3000
    CHECK("IOPL of SetIOPLMask", eax, 0x3000)
    mov eax, 0
    VMI(SET_IOPL_MASK)
    cmp dword ptr [ring], 0             # a bad frame: at CPL 0 the fault is in the ROM
    je no_bad_frame
    cmp dword ptr [rom], 0              # and without one, behind the kernel's pointer
    je no_bad_frame
    mov dword ptr [resume_esp], esp
    lea eax, [bad_frame]
    mov dword ptr [resume], eax
    PUSH(USER_DS)
    PUSH(USER_STACK)
    PUSH(0x202)
    PUSH(0xfff3)
    PUSH(0)
    mov dword ptr [scratch], esp
    SITE(IRET, bad_site)
bad_frame:
    CHECK("vector of a bad frame", dword ptr [fault_vector], 13)
    CHECK("error of a bad frame", dword ptr [fault_error], 0xfff0)
    CHECK("place of a bad frame", dword ptr [fault_eip], bad_site)
    mov eax, dword ptr [scratch]
    CHECK("stack of a bad frame", dword ptr [fault_esp], eax)
    VMI(GET_INTERRUPT_MASK)
    CHECK("IF behind a bad frame", eax, 0)
no_bad_frame:
    cmp dword ptr [rom], 0
    jne sysexit_check
    mov eax, 1
    mov ecx, 0
    cpuid
    test edx, 0x800                     # without a ROM, only where the processor has it
    jz no_sysexit
sysexit_check:
    mov dword ptr [resume_esp], esp
    lea eax, [back_from_sysexit]
    mov dword ptr [resume_user], eax
    lea edx, [user_code]
    mov ecx, USER_STACK - 64
    VMI_RAW(SYSEXIT)
back_from_sysexit:
    CHECK("ring behind SYSEXIT", dword ptr [user_cs], USER_CS)
    CHECK("stack behind SYSEXIT", dword ptr [user_stack], USER_STACK - 64)
    mov eax, dword ptr [user_flags]
    and eax, 0x200
    CHECK("IF behind SYSEXIT", eax, 0x200)
no_sysexit:
    ret

port_checks:
    mov edx, 0x3ff                      # the scratch register of the UART
    mov eax, 0x5a
    VMI(OUTB)
    mov eax, 0x11223344
    VMI(INB)
    CHECK("INB", eax, 0x1122335a)
    mov edx, 0x3fe
    mov eax, 0xa500
    VMI(OUTW)
    mov eax, 0x11220000
    VMI(INW)
    and eax, 0xffffff00
    CHECK("INW", eax, 0x1122a500)
    mov edx, 0xcf8                      # the address register of PCI
    mov eax, 0x80000800
    VMI(OUTL)
    mov eax, 0
    VMI(INL)
    CHECK("INL", eax, 0x80000800)
    lea esi, [source]
    mov edx, 0x3ff
    mov ecx, 3
    VMI(OUTSB)
    CHECK("count behind OUTSB", ecx, 0)
    CHECK("source behind OUTSB", esi, source + 3)
    lea edi, [scratch]
    mov ecx, 3
    VMI(INSB)
    CHECK("destination behind INSB", edi, scratch + 3)
    mov eax, dword ptr [scratch]
    and eax, 0xffffff
    CHECK("INSB", eax, 0x333333)
    lea esi, [source]
    mov edx, 0x3fe
    mov ecx, 2
    VMI(OUTSW)
    lea edi, [scratch]
    mov ecx, 2
    VMI(INSW)
    mov eax, dword ptr [scratch]
    and eax, 0xff00ff00
    CHECK("INSW", eax, 0x80008000)
    lea esi, [source]
    mov edx, 0xcf8
    mov ecx, 1
    VMI(OUTSL)
    lea edi, [scratch]
    mov ecx, 2
    VMI(INSL)
    CHECK("INSL", dword ptr [scratch + 4], 0x80332200)
    ret

time_checks:
    ONLY_IF_SERVED(GET_CYCLE_FREQUENCY, no_timer)
    VMI(GET_CYCLE_FREQUENCY)
    CHECK("frequency, high word", edx, 0)
    mov dword ptr [frequency], eax
    mov eax, 0
    VMI(GET_CYCLE_COUNTER)
    mov esi, eax
    mov edi, edx
    mov eax, 1
    VMI(GET_CYCLE_COUNTER)
    sub esi, eax
    sbb edi, edx
    sbb eax, eax
    CHECK("cycles run forward", eax, 0xffffffff)
    mov eax, 2
    VMI(GET_CYCLE_COUNTER)
    CHECK("stolen cycles", eax, 0)
    VMI(GET_WALLCLOCK_TIME)
    cmp edx, 0x0f000000                 # 2004
    sbb eax, eax
    CHECK("the year", eax, 0)
    VMI(WALLCLOCK_UPDATED)
    VMI(WALLCLOCK_UPDATED)
    CHECK("the wall clock was not set", eax, 0)
    mov eax, dword ptr [frequency]      # a periodic alarm that is due already
    mov edx, 0
    mov ecx, 1000
    div ecx
    mov dword ptr [period], eax
    mov dword ptr [ticks], 0
    mov eax, 0
    VMI(GET_CYCLE_COUNTER)
    mov ecx, edx
    mov edx, eax
    mov esi, eax
    mov eax, 0x100
    PUSH(0)
    push dword ptr [period]
    VMI(SET_ALARM)
    lea esp, [esp + 8]
wait_for_ticks:
    VMI(HALT)
    cmp dword ptr [ticks], 4
    jb wait_for_ticks
    VMI(DISABLE_INTERRUPTS)
    mov eax, 0
    VMI(GET_CYCLE_COUNTER)
    sub eax, esi                        # four ticks in three periods, not in two and not in ten
    mov edx, 0
    div dword ptr [period]
    cmp eax, 3
    sbb ecx, ecx
    cmp eax, 10
    cmc
    sbb ecx, 0
    CHECK("four ticks take three periods", ecx, 0)
    mov eax, 0
    VMI(CANCEL_ALARM)
    CHECK("the alarm was armed", eax, 1)
    mov eax, 0
    VMI(CANCEL_ALARM)
    CHECK("the alarm is not armed", eax, 0)
    mov eax, 1                          # once, available cycles
    VMI(GET_CYCLE_COUNTER)
    add eax, dword ptr [period]
    adc edx, 0
    mov ecx, edx
    mov edx, eax
    mov eax, 1
    mov dword ptr [ticks], 0
    PUSH(0)
    PUSH(0)
    VMI(SET_ALARM)
    lea esp, [esp + 8]
    VMI(HALT)
    CHECK("one alarm", dword ptr [ticks], 1)
    mov eax, 1
    VMI(CANCEL_ALARM)
    CHECK("an alarm that rang is not armed", eax, 0)
    VMI(DISABLE_INTERRUPTS)             # none may ring before Halt
    mov eax, 0x100                      # periodic without a period: it rings once
    mov edx, 0
    mov ecx, 0
    mov dword ptr [ticks], 0
    PUSH(0)
    PUSH(0)
    VMI(SET_ALARM)
    lea esp, [esp + 8]
    VMI(HALT)
    CHECK("alarm without a period", dword ptr [ticks], 1)
    mov eax, 0x100
    VMI(CANCEL_ALARM)
    CHECK("alarm without a period is not armed", eax, 0)
    VMI(DISABLE_INTERRUPTS)
    mov eax, 0                          # one far away, then one now in its place
    mov edx, 0
    mov ecx, 0x01000000
    PUSH(0)
    PUSH(0)
    VMI(SET_ALARM)
    mov eax, 0
    mov edx, 0
    mov ecx, 0
    mov dword ptr [ticks], 0
    VMI(SET_ALARM)
    VMI(HALT)
    CHECK("alarm in place of another", dword ptr [ticks], 1)
    mov eax, 0
    VMI(CANCEL_ALARM)
    CHECK("the other alarm is gone", eax, 0)
    mov eax, 0x100
    mov edx, 0
    mov ecx, 0x01000000
    VMI(SET_ALARM)
    lea esp, [esp + 8]
    mov eax, 0x10100                    # only the counter counts
    VMI(CANCEL_ALARM)
    CHECK("alarm cancelled with flags", eax, 1)
    mov eax, 7                          # a counter that does not exist
    mov edx, 0
    mov ecx, 0
    PUSH(0)
    PUSH(0)
    VMI(SET_ALARM)
    lea esp, [esp + 8]
    mov eax, 7
    VMI(CANCEL_ALARM)
    CHECK("no alarm of an unknown counter", eax, 0)
    mov eax, 2                          # stolen cycles have none
    mov edx, 0
    mov ecx, 0
    PUSH(0)
    PUSH(0)
    VMI(SET_ALARM)
    lea esp, [esp + 8]
    mov eax, 2
    VMI(CANCEL_ALARM)
    CHECK("no alarm of stolen cycles", eax, 0)
    VMI(DISABLE_INTERRUPTS)
    ret
no_timer:
    SAY("no timer")
    ret

apic_checks:
    ONLY_IF_SERVED(APIC_READ, no_apic)
    lea eax, [scratch]                  # a processor that never comes
    mov edx, 1
    VMI(SET_INITIAL_AP_STATE)
    mov eax, 0x300
    mov edx, 0xc4610
    VMI(APIC_WRITE)
    mov eax, 0x30
    VMI(APIC_READ)
    and eax, 0xff
    CHECK("version of the APIC", eax, 0x14)
    mov eax, 0xf0
    mov edx, 0x1ff
    VMI(APIC_WRITE)
    mov eax, 0x320
    mov edx, 0x41
    VMI(APIC_WRITE)
    mov eax, 0xfee00320                 # an address is as good as an offset
    VMI(APIC_READ)
    CHECK("LVTT", eax, 0x41)
    mov dword ptr [ticks], 0
    mov eax, 0
    VMI(GET_CYCLE_COUNTER)
    add eax, dword ptr [period]
    adc edx, 0
    mov ecx, edx
    mov edx, eax
    mov eax, 0x10000
    PUSH(0)
    PUSH(0)
    VMI(SET_ALARM)
    lea esp, [esp + 8]
    VMI(HALT)
    VMI(DISABLE_INTERRUPTS)
    CHECK("alarm by LVTT", dword ptr [ticks], 1)
    mov eax, 0xf0
    mov edx, 0xff
    VMI(APIC_WRITE)
    ret
no_apic:
    lea eax, [scratch]
    mov edx, 1
    VMI(SET_INITIAL_AP_STATE)
    SAY("no APIC")
    ret

.p2align 2
checks_word:
    .long 0x600dc0de
source:
    .byte 0x00, 0x22, 0x33, 0x80
frequency:
    .long 0
period:
    .long 0

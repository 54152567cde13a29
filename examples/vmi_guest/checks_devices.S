# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Ports, the counters and alarms of VMI, the local APIC.

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
    CHECK("count after OUTSB", ecx, 0)
    CHECK("source after OUTSB", esi, source + 3)
    lea edi, [scratch]
    mov ecx, 3
    VMI(INSB)
    CHECK("destination after INSB", edi, scratch + 3)
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
    mov edx, 7
    VMI(SET_INITIAL_AP_STATE)
    mov eax, APIC + 0x310
    mov edx, 0x07000000
    VMI_RAW(APIC_WRITE)
    mov eax, APIC + 0x300
    mov edx, 0x4610
    VMI(APIC_WRITE)
    mov eax, APIC + 0x30
    VMI(APIC_READ)
    and eax, 0xff
    CHECK("version of the APIC", eax, 0x14)
    mov eax, APIC + 0xf0
    mov edx, 0x1ff
    VMI(APIC_WRITE)
    mov eax, APIC + 0x320
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
    call second_checks
    mov eax, APIC + 0xf0
    mov edx, 0xff
    VMI(APIC_WRITE)
    ret
no_apic:
    lea eax, [scratch]
    mov edx, 1
    VMI(SET_INITIAL_AP_STATE)
    SAY("no APIC")
    ret

# A second processor, if there is one, begins in the state that SetInitialAPState has told.
second_checks:
    mov edi, AP_STATE
    mov ecx, AP_STATE_WORDS
    mov eax, 0
    .byte 0xf3, 0xab                    # rep stosd
    VMI_RAW(GET_CR0)
    mov dword ptr [AP_STATE], eax
    VMI_RAW(GET_CR3)
    mov dword ptr [AP_STATE + 8], eax
    VMI_RAW(GET_CR4)
    mov dword ptr [AP_STATE + 12], eax
    lea eax, [second_start]
    mov dword ptr [AP_STATE + 24], eax
    mov dword ptr [AP_STATE + 28], 0xcd7
    mov dword ptr [AP_STATE + 32], 0x11111111
    mov dword ptr [AP_STATE + 36], 0x22222222
    mov dword ptr [AP_STATE + 40], 0x33333333
    mov dword ptr [AP_STATE + 44], 0x44444444
    mov dword ptr [AP_STATE + 48], SECOND_STACK
    mov dword ptr [AP_STATE + 52], 0x55555555
    mov dword ptr [AP_STATE + 56], 0x66666666
    mov dword ptr [AP_STATE + 60], 0x77777777
    mov word ptr [AP_STATE + 64], KERNEL_CS
    mov word ptr [AP_STATE + 66], KERNEL_DS
    mov word ptr [AP_STATE + 68], USER_DS
    mov word ptr [AP_STATE + 70], USER_DS
    mov word ptr [AP_STATE + 76], LDT_SELECTOR
    mov word ptr [AP_STATE + 78], 0x9f
    lea eax, [gdt]
    mov dword ptr [AP_STATE + 80], eax
    mov dword ptr [AP_STATE + 84], IDT
    mov word ptr [AP_STATE + 88], 0x7ff
    mov eax, AP_STATE
    mov edx, 1
    VMI_RAW(SET_INITIAL_AP_STATE)
    mov dword ptr [AP_STATE + 36], 0    # the state is what it was at the call
    mov eax, APIC + 0x310
    mov edx, 0x01000000
    VMI_RAW(APIC_WRITE)
    mov eax, APIC + 0x300
    mov edx, 0x4500                     # INIT
    VMI_RAW(APIC_WRITE)
    mov eax, APIC + 0x300
    mov edx, 0x4609                     # STARTUP; the page means nothing
    VMI_RAW(APIC_WRITE)
    mov ecx, 20000
second_wait:
    .byte 0xf3, 0x90                    # pause
    cmp dword ptr [second_came], 0
    jne second_has_come
    loop second_wait
    ret                                 # there is no second processor
second_has_come:
    SAY("second processor")
    ret

second_start:
    mov dword ptr [AP_STATE], eax
    mov eax, esp
    CHECK("ESP of the second processor", eax, SECOND_STACK)
    pushfd
    pop eax
    cld
    and eax, 0xcd5                      # but for IF, which is virtual
    CHECK("flags of the second processor", eax, 0xcd5)
    CHECK("EAX of the second processor", dword ptr [AP_STATE], 0x11111111)
    CHECK("EBX of the second processor", ebx, 0x22222222)
    CHECK("ECX of the second processor", ecx, 0x33333333)
    CHECK("EDX of the second processor", edx, 0x44444444)
    CHECK("EBP of the second processor", ebp, 0x55555555)
    CHECK("ESI of the second processor", esi, 0x66666666)
    CHECK("EDI of the second processor", edi, 0x77777777)
    mov eax, cs
    and eax, 3
    CHECK("ring of the second processor", eax, dword ptr [ring])
    mov eax, ds
    CHECK("DS of the second processor", eax, USER_DS)
    VMI(GET_INTERRUPT_MASK)
    CHECK("IF of the second processor", eax, 0)
    VMI(GET_CR0)
    and eax, 0x80000001
    CHECK("CR0 of the second processor", eax, 0x80000001)
    VMI(GET_CR3)
    CHECK("CR3 of the second processor", eax, DIRECTORY)
    VMI(GET_LDT)
    and eax, 0xffff
    CHECK("LDT of the second processor", eax, LDT_SELECTOR)
    VMI(GET_TR)
    and eax, 0xffff
    CHECK("TR of the second processor", eax, 0)
    mov eax, APIC + 0x20
    VMI(APIC_READ)
    shr eax, 24
    CHECK("APIC of the second processor", eax, 1)
    mov dword ptr [second_came], 1
second_end:
    VMI_RAW(HALT)
    jmp second_end

.p2align 2
second_came:
    .long 0
checks_word:
    .long 0x600dc0de
source:
    .byte 0x00, 0x22, 0x33, 0x80
frequency:
    .long 0
period:
    .long 0

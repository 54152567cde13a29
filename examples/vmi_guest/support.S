# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Tables, faults, and the serial line of the conformance guest.

build_tables:
    mov edi, IDT                        # 32 exceptions, then 0x80 for the user
    lea eax, [exception_stubs]
    mov ecx, 32
gate_next:
    mov edx, KERNEL_CS * 0x10000
    mov dx, ax
    mov dword ptr [edi], edx
    mov edx, eax
    mov dx, 0x8e00
    mov dword ptr [edi + 4], edx
    add edi, 8
    add eax, 16
    loop gate_next
    lea eax, [timer_handler]
    mov edi, IDT + 8 * 0x40
    call set_gate
    lea eax, [lvtt_handler]
    mov edi, IDT + 8 * 0x41
    call set_gate
    lea eax, [system_call]
    mov edi, IDT + 8 * 0x80
    call set_gate
    or dword ptr [edi + 4], 0x6000      # DPL 3
    mov dword ptr [DIRECTORY], 0x87
    mov dword ptr [DIRECTORY + 4], 0x400087
    mov dword ptr [DIRECTORY + 8], PAGE_TABLE + 7
    mov dword ptr [DIRECTORY + 768 * 4], 0x83
    mov esi, DIRECTORY
    mov edi, DIRECTORY_2
    mov ecx, 1024
    .byte 0xf3, 0xa5                    # rep movsd
    mov dword ptr [TSS + 4], STACK_TOP
    mov dword ptr [TSS + 8], KERNEL_DS
    ret

set_gate:
    mov edx, KERNEL_CS * 0x10000
    mov dx, ax
    mov dword ptr [edi], edx
    mov ax, 0x8e00
    mov dword ptr [edi + 4], eax
    ret

# The controllers of the AT: vectors from 0x40 on, only line 0 open.
mask_interrupts:
    mov al, 0x11
    out 0x20, al
    out 0xa0, al
    mov al, 0x40
    out 0x21, al
    mov al, 0x48
    out 0xa1, al
    mov al, 4
    out 0x21, al
    mov al, 2
    out 0xa1, al
    mov al, 1
    out 0x21, al
    out 0xa1, al
    mov al, 0xfe
    out 0x21, al
    mov al, 0xff
    out 0xa1, al
    mov al, 0x3a                        # the PIT stops
    out 0x43, al
    ret

# In: IF off. Line 0 of the controllers asks once, or `ticks` stays 0. Keeps all but flags.
let_tick_wait:
    push eax
    push ecx
    push edx
    mov dword ptr [ticks], 0
    mov al, 0x34                        # the PIT once a millisecond
    out 0x43, al
    mov al, 0xa9
    out 0x40, al
    mov al, 4
    out 0x40, al
    mov al, 0x0a                        # the controller shows its requests
    out 0x20, al
    mov edx, 5000
look_for_tick:
    mov ecx, 2000
tick_delay:
    dec ecx
    jnz tick_delay
    in al, 0x20
    test al, 1
    jnz tick_waits
    dec edx
    jnz look_for_tick
tick_waits:
    mov al, 0x3a                        # the PIT stops
    out 0x43, al
    pop edx
    pop ecx
    pop eax
    ret

.p2align 4
exception_stubs:
EXCEPTION_STUBS
exception:                              # vector, error, EIP, CS, EFLAGS
    pop dword ptr [fault_vector]
    pop dword ptr [fault_error]
    pop dword ptr [fault_eip]
    mov dword ptr [fault_esp], esp
    add dword ptr [fault_esp], 8        # after CS and EFLAGS: nothing more from the same ring
    cmp dword ptr [resume], 0
    je exception_unexpected
    mov esp, dword ptr [resume_esp]
    mov eax, dword ptr [resume]
    mov dword ptr [resume], 0
    jmp eax
exception_unexpected:
    SAY("fault %x error %x at %x", dword ptr [fault_vector], dword ptr [fault_error], dword ptr [fault_eip])
    jmp finish

timer_handler:
    push eax
    inc dword ptr ss:[ticks]
    mov al, 0x20
    out 0x20, al
    pop eax
    VMI_RAW(IRET)

lvtt_handler:
    push eax
    push edx
    inc dword ptr ss:[ticks]
    mov eax, APIC + 0xb0
    mov edx, 0
    VMI_RAW(APIC_WRITE)
    pop edx
    pop eax
    VMI_RAW(IRET)

# From user code: note where the stack is, and go on in the kernel.
system_call:
    mov dword ptr ss:[user_esp], esp
    mov eax, dword ptr ss:[esp + 12]
    mov dword ptr ss:[user_stack], eax
    mov eax, dword ptr ss:[esp + 4]
    mov dword ptr ss:[user_cs], eax
    mov eax, dword ptr ss:[esp + 8]
    mov dword ptr ss:[user_flags], eax
    mov eax, USER_DS
    mov ds, ax
    mov es, ax
    mov esp, dword ptr [resume_esp]
    jmp dword ptr [resume_user]

user_code:
    int 0x80
    jmp user_code

native_iret:
    iretd

native_sysexit:
    sti                                 # its shadow reaches to the user's first instruction
    sysexit

# check(got, wanted): a line if they differ. All registers and flags are kept.
check:                                  # flags, registers, return address, got, wanted, text
    pushfd
    pushad
    inc dword ptr [checks]
    mov eax, dword ptr [esp + 40]
    cmp eax, dword ptr [esp + 44]
    je check_done
    inc dword ptr [failures]
    push dword ptr [esp + 44]
    push dword ptr [esp + 44]
    push dword ptr [esp + 56]
    lea eax, [text_failed]
    push eax
    call say
    add esp, 16
check_done:
    popad
    popfd
    ret

# say(text, ...): %x hexadecimal, %s a text. All registers and flags are kept.
say:
    pushfd
    pushad
    mov esi, dword ptr [esp + 40]
    lea edi, [esp + 44]
say_next:
    lodsb
    test al, al
    jz say_end
    cmp al, 37
    jne say_plain
    lodsb
    mov edx, dword ptr [edi]
    add edi, 4
    cmp al, 115
    je say_text
    call say_number
    jmp say_next
say_plain:
    call putc
    jmp say_next
say_text:
    mov al, byte ptr [edx]
    inc edx
    test al, al
    jz say_next
    call putc
    jmp say_text
say_end:
    mov al, 10
    call putc
    popad
    popfd
    ret

say_number:
    mov ecx, 28
say_skip:
    mov ebx, edx
    shr ebx, cl
    jnz say_digit
    test ecx, ecx
    jz say_digit
    sub ecx, 4
    jmp say_skip
say_digit:
    mov ebx, edx
    shr ebx, cl
    and ebx, 15
    mov al, byte ptr [digits + ebx]
    call putc
    sub ecx, 4
    jns say_digit
    ret

putc:
    push edx
    push eax
    mov edx, 0x3fd
putc_wait:
    in al, dx
    test al, 0x20
    jz putc_wait
    mov eax, dword ptr [esp]
    mov edx, 0x3f8
    out dx, al
    pop eax
    pop edx
    ret

# Registers after a call against those in front of it; `result_mask` are those it may change.
compare_registers:
    pushfd
    pushad
    cmp dword ptr [minor], 0
    jne compare_all                     # 3.1: nothing but results
    mov eax, dword ptr [spoilt_mask]
    or dword ptr [result_mask], eax
compare_all:
    mov esi, 0
compare_next:
    bt dword ptr [result_mask], esi
    jc compare_skip
    mov eax, dword ptr [after + 4*esi]
    mov edx, dword ptr [before + 4*esi]
    inc dword ptr [checks]
    cmp eax, edx
    je compare_skip
    inc dword ptr [failures]
    push edx
    push eax
    push esi
    push dword ptr [call_name]
    lea eax, [text_spoilt]
    push eax
    call say
    add esp, 20
compare_skip:
    inc esi
    cmp esi, 8
    jb compare_next
    popad
    popfd
    ret

digits:
    .ascii "0123456789abcdef"
text_failed:
    .asciz "FAIL %s: %x, not %x"
text_spoilt:
    .asciz "FAIL %s: register %x is %x, not %x"
.p2align 4
gdt:
    .fill 12, 8, 0
    .quad 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00cffb000000ffff, 0x00cff3000000ffff
    .quad TSS_DESCRIPTOR, LDT_DESCRIPTOR, 0, 0
gdt_operand:
    .word 0x9f
    .long gdt
idt_operand:
    .word 0x7ff
    .long IDT
scratch:
    .fill 8, 4, 0
rom:
    .long 0
minor:
    .long 0
ring:
    .long 0
checks:
    .long 0
failures:
    .long 0
ticks:
    .long 0
resume:
    .long 0
resume_esp:
    .long 0
resume_user:
    .long 0
fault_vector:
    .long 0
fault_error:
    .long 0
fault_eip:
    .long 0
fault_esp:
    .long 0
user_esp:
    .long 0
user_stack:
    .long 0
user_cs:
    .long 0
user_flags:
    .long 0
iret_pointer:                           # junk as soon as a ROM has to answer for them
    .long native_iret
sysexit_pointer:
    .long native_sysexit
result_mask:
    .long 0
spoilt_mask:
    .long 0
call_name:
    .long 0
before:
    .fill 8, 4, 0
after:
    .fill 8, 4, 0

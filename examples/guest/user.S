# SPDX-License-Identifier: GPL-2.0-only OR MIT
# What ring 3 sees: a program that is data for the kernel (it lies in .rodata and is copied to
# USER_BASE), position independent, with sensitive instructions that must stay as they are.
# Calls: number in EAX, arguments in EBX and ECX, result in EAX. ESI and EDI are kept by `.Lsay`.

#define SYS_EXIT 0
#define SYS_SAY 1
#define SYS_SKIP 2
#define SYS_TICKS 3
#define SYS_TRAPS 4
#define SYS_DEMAND 5
#define SYS_SET_TLS 6
#define SYS_TSD 7
#define SYS_SET_TS 8
#define SYS_BREAK_CS 9

# The next fault goes on `length` bytes after its instruction, EAX = vector, EDX = error code.
.macro EXPECT_FAULT length
    mov eax, SYS_SKIP
    mov ebx, \length
    int 0x80
    mov eax, NO_FAULT
.endm

# Print the text at EBX and vector << 16 | error code.
.macro SAY_FAULT
    movzx ecx, dx
    shl eax, 16
    or ecx, eax
    mov eax, SYS_SAY
    int 0x80
.endm

SECTION(.rodata)

OBJECT(user_image, 16)
    jmp .Luser_start
    .balign 32, 0x90
    # Here sysexit comes back to: the kernel knows the address USER_BASE + 0x20.
    pop ebp
    pop edx
    pop ecx
    ret

# A call by sysenter. ECX, EDX and EBP are kept.
.Lfast_call:
    push ecx
    push edx
    push ebp
    mov ebp, esp
    sysenter

# Print the text at EBX and ECX.
.Lsay:
    mov eax, SYS_SAY
    int 0x80
    ret

.Luser_start:
    USER_TEXT(ebx, "user: int 0x80 with value")
    mov ecx, 0xc0ffee
    call .Lsay
    mov eax, 99
    int 0x80
    mov ecx, eax
    USER_TEXT(ebx, "user: unknown call answers")
    call .Lsay
    mov ebx, 0xc1000000
    mov eax, SYS_SAY
    int 0x80
    mov ecx, eax
    USER_TEXT(ebx, "user: kernel pointer answers")
    call .Lsay
    mov ebx, 0x10000
    mov eax, SYS_SAY
    int 0x80
    mov ecx, eax
    USER_TEXT(ebx, "user: bad pointer answers")
    call .Lsay

    # Selectors of ring 3 are the same everywhere.
    mov ecx, cs
    USER_TEXT(ebx, "user: cs")
    call .Lsay
    mov ecx, ss
    USER_TEXT(ebx, "user: ss")
    call .Lsay
    push ds
    pop ecx
    and ecx, 0xffff
    USER_TEXT(ebx, "user: ds")
    call .Lsay
    mov eax, KERNEL_DS
    verr ax
    setz cl
    movzx ecx, cl
    USER_TEXT(ebx, "user: verr of kernel data")
    call .Lsay
    mov eax, SMALL_SEL
    lsl ecx, eax
    USER_TEXT(ebx, "user: lsl of small data")
    call .Lsay

    # IF is on and stays on, IOPL is 0 and stays 0; DF and AC can be changed.
    pushfd
    pop ecx
    and ecx, 0x3200
    USER_TEXT(ebx, "user: pushf if and iopl")
    call .Lsay
    push 0x43402
    popfd
    pushfd
    pop ecx
    push 0x202
    popfd
    and ecx, 0x43600
    USER_TEXT(ebx, "user: popf cannot clear if")
    call .Lsay

    # What ring 3 must not do.
    EXPECT_FAULT 1
    cli
    USER_TEXT(ebx, "user: cli")
    SAY_FAULT
    EXPECT_FAULT 1
    sti
    USER_TEXT(ebx, "user: sti")
    SAY_FAULT
    EXPECT_FAULT 1
    hlt
    USER_TEXT(ebx, "user: hlt")
    SAY_FAULT
    EXPECT_FAULT 2
    in al, 0x21
    USER_TEXT(ebx, "user: in")
    SAY_FAULT
    EXPECT_FAULT 2
    out 0x80, al
    USER_TEXT(ebx, "user: out")
    SAY_FAULT
    EXPECT_FAULT 1
    insb
    USER_TEXT(ebx, "user: insb")
    SAY_FAULT
    EXPECT_FAULT 3
    mov ecx, cr3
    USER_TEXT(ebx, "user: mov from cr3")
    SAY_FAULT
    EXPECT_FAULT 3
    mov dr7, ecx
    USER_TEXT(ebx, "user: mov to dr7")
    SAY_FAULT
    EXPECT_FAULT 2
    clts
    USER_TEXT(ebx, "user: clts")
    SAY_FAULT
    EXPECT_FAULT 2
    wbinvd
    USER_TEXT(ebx, "user: wbinvd")
    SAY_FAULT
    EXPECT_FAULT 3
    lldt cx
    USER_TEXT(ebx, "user: lldt")
    SAY_FAULT
    EXPECT_FAULT 2
    rdmsr
    USER_TEXT(ebx, "user: rdmsr")
    SAY_FAULT
    EXPECT_FAULT 2
    int 0x82
    USER_TEXT(ebx, "user: int of the kernel")
    SAY_FAULT
    mov ecx, KERNEL_DS
    EXPECT_FAULT 2
    mov es, ecx
    USER_TEXT(ebx, "user: kernel selector")
    SAY_FAULT
    EXPECT_FAULT 2
    ud2
    USER_TEXT(ebx, "user: ud2")
    SAY_FAULT

    # Page faults: the kernel's memory, nothing, and pages on demand.
    mov esi, 0xc1000000
    EXPECT_FAULT 2
    mov ecx, [esi]
    USER_TEXT(ebx, "user: read of the kernel")
    SAY_FAULT
    EXPECT_FAULT 2
    mov [esi], ecx
    USER_TEXT(ebx, "user: write to the kernel")
    SAY_FAULT
    xor esi, esi
    EXPECT_FAULT 2
    mov ecx, [esi]
    USER_TEXT(ebx, "user: read of nothing")
    SAY_FAULT
    mov esi, DEMAND_BASE
    mov ecx, [esi]
    mov dword ptr [esi + 0x1ffe], 0x12345678
    add ecx, [esi + 0x1ffe]
    push ecx
    mov eax, SYS_DEMAND
    int 0x80
    pop ecx
    shl eax, 28
    xor ecx, eax
    USER_TEXT(ebx, "user: pages on demand")
    call .Lsay

    # Traps that go on after their instruction.
    mov eax, SYS_TRAPS
    mov ebx, 3
    int 0x80
    mov edi, eax
    int3
    mov eax, SYS_TRAPS
    mov ebx, 3
    int 0x80
    mov ecx, eax
    sub ecx, edi
    USER_TEXT(ebx, "user: int3 counted")
    call .Lsay
    mov eax, SYS_TRAPS
    mov ebx, 4
    int 0x80
    mov edi, eax
    mov eax, 0x7fffffff
    inc eax
    into
    mov eax, SYS_TRAPS
    mov ebx, 4
    int 0x80
    mov ecx, eax
    sub ecx, edi
    USER_TEXT(ebx, "user: into counted")
    call .Lsay
    push 0x302
    popfd
    nop
    nop
    nop
    push 0x202
    popfd
    mov eax, SYS_TRAPS
    mov ebx, 1
    int 0x80
    mov ecx, eax
    USER_TEXT(ebx, "user: single steps")
    call .Lsay

    # Segments: a descriptor rewritten twice, the LDT.
    call .Lafter_words
    .long 0x71571571, 0x72572572
.Lafter_words:
    pop edi
    mov ebx, edi
    mov eax, SYS_SET_TLS
    int 0x80
    mov gs, eax
    mov ecx, gs:[0]
    USER_TEXT(ebx, "user: gs")
    call .Lsay
    lea ebx, [edi + 4]
    mov eax, SYS_SET_TLS
    int 0x80
    mov gs, eax
    mov ecx, gs:[0]
    USER_TEXT(ebx, "user: gs again")
    call .Lsay
    mov eax, LDT_DATA_SEL
    mov fs, eax
    mov esi, 4
    EXPECT_FAULT 3
    mov ecx, fs:[esi]
    USER_TEXT(ebx, "user: ldt data is the kernel's")
    SAY_FAULT

    # The coprocessor comes when it is needed.
    mov eax, SYS_SET_TS
    int 0x80
    fninit
    mov eax, SYS_TRAPS
    mov ebx, 7
    int 0x80
    mov ecx, eax
    USER_TEXT(ebx, "user: coprocessor on demand")
    call .Lsay

    # RDTSC forbidden; without RDTSC the answer is made up.
    mov eax, SYS_TSD
    mov ebx, 1
    int 0x80
    test eax, eax
    jz .Lno_tsc_here
    EXPECT_FAULT 2
    rdtsc
    jmp .Ltsc_tried
.Lno_tsc_here:
    mov eax, 13
    xor edx, edx
.Ltsc_tried:
    USER_TEXT(ebx, "user: rdtsc with tsd")
    SAY_FAULT
    mov eax, SYS_TSD
    xor ebx, ebx
    int 0x80

    # sysenter where CPUID has SEP, else the old way: the same line.
    mov eax, 1
    cpuid
    bt edx, 11
    mov ecx, 3
    jnc .Lold_way
.Lfast_again:
    USER_TEXT(ebx, "user: fast call")
    mov eax, SYS_SAY
    call .Lfast_call
    loop .Lfast_again
    jmp .Lcalls_made
.Lold_way:
    USER_TEXT(ebx, "user: fast call")
    call .Lsay
    loop .Lold_way
.Lcalls_made:

    # Be interrupted in ring 3 twice.
    mov dword ptr [DEMAND_BASE], 0
    mov eax, SYS_TICKS
    mov ebx, DEMAND_BASE
    int 0x80
.Lwait_for_ticks:
    cmp dword ptr [DEMAND_BASE], 2
    jb .Lwait_for_ticks
    mov eax, SYS_TICKS
    xor ebx, ebx
    int 0x80
    mov ecx, 1
    USER_TEXT(ebx, "user: interrupted by ticks")
    call .Lsay

    # The way back is broken: the kernel's iret faults, and that ends this program.
    mov eax, SYS_BREAK_CS
    int 0x80
    mov ecx, eax
    USER_TEXT(ebx, "user: came back with a broken cs")
    call .Lsay
    xor eax, eax
    int 0x80
END(user_image)
GLOBAL(user_image_end)

# SPDX-License-Identifier: GPL-2.0-only OR MIT
# A guest that uses a VMI ROM as Linux does, and says on the serial port what it met.
# Loaded at 0x100000 by a multiboot loader: protected mode, flat, CPL 0, no paging.
# From outside: IMAGE_END.

.set COM1, 0x3f8
.set MULTIBOOT, 0x1badb002
.set MULTIBOOT_FLAGS, 0x10000           # the addresses below count
.set STACK_TOP, 0x180000
.set VMI_SIGNATURE, 0x696d5663
.set CALLS, 100                         # some more than there are
.set KERNEL_CS, 0x08
.set KERNEL_DS, 0x10

header:
    .long MULTIBOOT, MULTIBOOT_FLAGS, 0 - MULTIBOOT - MULTIBOOT_FLAGS
    .long header, header, IMAGE_END, 0, start

start:
    mov esp, STACK_TOP
    cld
    call find_rom
    mov al, 'B'                         # "B": where the ROM is, and its API version
    call letter
    mov eax, ebp
    call number
    movzx eax, word ptr [ebp + 0x0c]
    call number
    lea eax, [ebp + 0x80]
    call eax
    mov ecx, eax
    mov al, 'I'                         # "I": what VMI_Init said
    call line
    mov eax, ecx
    call number
    mov ebx, 0
ask:                                    # "R": number, type and address of each answer
    mov eax, ebx
    lea ecx, [ebp + 0x88]
    call ecx
    mov edi, dword ptr [answers_base]
    mov dword ptr [edi + 4*ebx], eax
    mov ecx, eax
    mov al, 'R'
    call line
    mov eax, ebx
    call number
    mov eax, edx
    call number
    mov eax, ecx
    call number
    inc ebx
    cmp ebx, CALLS
    jb ask
    call use_calls
    mov al, 'E'
    call line
    mov al, 10
    call letter
    mov al, 0xfe                        # the keyboard controller resets the machine
    out 0x64, al
stop:
    hlt
    jmp stop

# Out: ebp = the first ROM that is one of VMI; ends here without.
find_rom:
    mov ebp, 0xc0000
try:
    cmp word ptr [ebp], 0xaa55
    jne next
    cmp dword ptr [ebp + 8], VMI_SIGNATURE
    jne next
    movzx ecx, byte ptr [ebp + 2]
    shl ecx, 9
    mov esi, ebp
    mov edx, 0
sum:
    lodsb
    add dl, al
    dec ecx
    jnz sum
    test dl, dl
    jnz next
    ret
next:
    add ebp, 0x800
    cmp ebp, 0xe0000
    jb try
    mov al, 'N'                         # "N": none
    call letter
    mov al, 0xfe
    out 0x64, al
    jmp stop

# In: eax = call number; other registers as the call wants them. Keeps what the call keeps.
.macro VMI number
    mov edi, dword ptr [answers_base]
    call dword ptr [edi + 4*\number]
.endm

# One line "U" with what each call gave.
use_calls:
    mov al, 'U'
    call line
    lea eax, [gdt_operand]            # SetGDT, and segments that prove it
    VMI 3
    mov eax, KERNEL_CS                  # PUSH of a name would be a 16-bit one
    push eax
    lea eax, [on_own_gdt]
    push eax
    retf
on_own_gdt:
    mov eax, KERNEL_DS
    mov ds, ax
    mov es, ax
    mov ss, ax
    lea eax, [buffer]                 # GetGDT
    VMI 7
    mov eax, dword ptr [buffer + 2]
    call number
    mov eax, 0x12345000                 # SetCR2, GetCR2
    VMI 16
    mov eax, 0
    VMI 20
    call number
    VMI 19                              # GetCR0, SetCR0: TS on; CLTS: off
    or eax, 8
    VMI 15
    VMI 19
    mov ecx, eax
    VMI 28
    VMI 19
    xor ecx, eax
    mov eax, ecx
    call number
    mov eax, 2                          # SetDR, GetDR
    mov edx, 0x4000
    VMI 24
    VMI 25
    call number
    VMI 27                              # RDTSC twice
    mov esi, eax
    VMI 27
    sub eax, esi
    cmp eax, 0x40000000
    sbb eax, eax
    call number
    stc                                 # the IF calls leave CF alone
    VMI 30
    sbb eax, eax
    call number
    VMI 31
    and eax, 0x200
    call number
    mov eax, 0                          # CPUID: "Genu" or another name of a maker
    mov ecx, 0
    push ebx
    VMI 0
    pop ebx
    test eax, eax
    setnz al
    movzx eax, al
    call number
    mov edx, COM1 + 7                   # OUTB, INB: the scratch register of the UART
    mov eax, 0xa5
    VMI 56
    mov eax, 0
    VMI 50
    call number
    pushfd                              # IRET to the same level
    mov eax, KERNEL_CS                  # PUSH of a name would be a 16-bit one
    push eax
    lea eax, [behind_iret]
    push eax
    VMI 33
    jmp stop
behind_iret:
    mov eax, 0xc0de
    call number
    ret

# A line feed, then the letter al.
line:
    push eax
    mov al, 10
    call letter
    pop eax

# In: al. Waits for the UART; keeps all.
letter:
    push edx
    push eax
    mov edx, COM1 + 5
wait_for_uart:
    in al, dx
    test al, 0x20
    jz wait_for_uart
    mov edx, COM1
    mov eax, dword ptr [esp]
    out dx, al
    pop eax
    pop edx
    ret

# A blank, then eax as 8 hexadecimal digits. Keeps all.
number:
    pushad
    mov ebx, eax
    mov al, ' '
    call letter
    mov ecx, 8
digit:
    rol ebx, 4
    mov eax, ebx
    and eax, 15
    mov al, byte ptr [digits + eax]
    call letter
    dec ecx
    jnz digit
    popad
    ret

digits:
    .ascii "0123456789abcdef"
.p2align 3
gdt:
    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdt_operand:
    .word 23
    .long gdt
buffer:
    .fill 8, 1, 0
answers_base:
    .long 0x190000

# SPDX-License-Identifier: GPL-2.0-only OR MIT
# What runs in real mode: asks the BIOS what the kernel wants to know, then enters protected mode.
#
# In:  cs = segment of the setup code + 0x20, as every loader of the 16-bit boot protocol has it.
# Out: jump to code32_start with esi = boot_params, flat segments 0x10 (code) and 0x18 (data),
#      ebx = ebp = edi = 0, interrupts off (Documentation/x86/boot.rst, "32-bit Boot Protocol").
# Linked at the end of the setup header, relative to the segment of the setup code.
# From outside: HEADER, HEADER_END, BOOT_PARAMS (4 KiB of zeros), STACK_TOP: offsets in the segment.

.set SMAP, 0x534d4150
.set CURSOR, BOOT_PARAMS + 0x00         # struct screen_info
.set EXT_MEM_K, BOOT_PARAMS + 0x02
.set VIDEO_PAGE, BOOT_PARAMS + 0x04
.set VIDEO_MODE, BOOT_PARAMS + 0x06
.set VIDEO_COLS, BOOT_PARAMS + 0x07
.set VIDEO_LINES, BOOT_PARAMS + 0x0e
.set VIDEO_IS_VGA, BOOT_PARAMS + 0x0f
.set VIDEO_POINTS, BOOT_PARAMS + 0x10
.set ALT_MEM_K, BOOT_PARAMS + 0x1e0
.set E820_ENTRIES, BOOT_PARAMS + 0x1e8
.set BP_HEADER, BOOT_PARAMS + 0x1f1
.set BP_CODE32_START, BOOT_PARAMS + 0x214
.set E820_TABLE, BOOT_PARAMS + 0x2d0
.set E820_END, E820_TABLE + 128 * 20
.set REALMODE_SWTCH, 0x208
.set HEADER_LEN, HEADER_END - HEADER

.code16
setup:
    cli
    cld
    mov ax, cs                          # only cs is the same with every loader
    sub ax, 0x20
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov esp, STACK_TOP
    sti
    mov si, HEADER                      # with what the loader has filled in
    mov di, BP_HEADER
    mov cx, HEADER_LEN
    rep movsb
    call ask_memory
    call ask_video
    call open_a20
    jmp enter_protected_mode

# Fills the memory map of boot_params, and the two older answers for a BIOS without one.
ask_memory:
    sub ebx, ebx
    mov di, E820_TABLE
next_range:
    mov eax, 0xe820
    mov edx, SMAP
    mov ecx, 20
    int 0x15
    jc ask_e801
    cmp eax, SMAP                       # some BIOSes lose the thread midway: no map then
    jne forget_ranges
    inc byte ptr [E820_ENTRIES]
    add di, 20
    cmp di, E820_END
    jae ask_e801
    test ebx, ebx
    jnz next_range
    jmp ask_e801
forget_ranges:
    mov byte ptr [E820_ENTRIES], 0

ask_e801:                               # KiB from 1 MiB to 16 MiB, 64 KiB blocks above
    mov ax, 0xe801
    sub cx, cx
    sub dx, dx
    int 0x15
    jc ask_88
    mov si, cx
    or si, dx
    jnz have_e801
    mov cx, ax                          # the answer may stand in ax and bx alone
    mov dx, bx
have_e801:
    movzx ecx, cx
    movzx edx, dx
    cmp ecx, 15 * 1024
    ja ask_88
    jb set_alt_mem                      # a hole below 16 MiB: what is above does not count
    shl edx, 6
    add ecx, edx
set_alt_mem:
    mov dword ptr [ALT_MEM_K], ecx

ask_88:
    mov ah, 0x88
    int 0x15
    jc memory_known
    mov word ptr [EXT_MEM_K], ax
memory_known:
    ret

# Fills screen_info for the text mode that is on.
ask_video:
    mov ah, 3
    sub bh, bh
    int 0x10
    mov word ptr [CURSOR], dx
    mov ah, 0x0f
    int 0x10
    and al, 0x7f
    mov byte ptr [VIDEO_MODE], al
    mov byte ptr [VIDEO_COLS], ah
    mov al, bh
    sub ah, ah
    mov word ptr [VIDEO_PAGE], ax
    mov byte ptr [VIDEO_LINES], 25
    mov ax, 0x1a00                      # display combination: only a VGA BIOS answers
    int 0x10
    cmp al, 0x1a
    jne video_known
    mov byte ptr [VIDEO_IS_VGA], 1
    mov ax, 0x40                        # BIOS data area: rows - 1, font height
    mov fs, ax
    mov al, byte ptr fs:[0x84]
    inc al
    mov byte ptr [VIDEO_LINES], al
    mov ax, word ptr fs:[0x85]
    mov word ptr [VIDEO_POINTS], ax
video_known:
    ret

# Opens address line 20: by the BIOS, else the keyboard controller, else port 0x92.
# Without it nothing can be started: waits for ever.
open_a20:
    call a20_is_open
    jnz a20_done
    mov ax, 0x2401
    int 0x15
    call a20_is_open
    jnz a20_done
    call keyboard_ready
    mov al, 0xd1                        # write the controller's output port
    out 0x64, al
    call keyboard_ready
    mov al, 0xdf                        # A20 on, no reset
    out 0x60, al
    call keyboard_ready
    call a20_is_open
    jnz a20_done
    in al, 0x92
    or al, 2
    and al, 0xfe                        # bit 0 would reset the machine
    out 0x92, al
a20_wait:
    call a20_is_open
    jz a20_wait
a20_done:
    ret

# Out: ZF clear if addresses 0x200 and 0x100200 are different words. The line takes its time.
a20_is_open:
    sub ax, ax
    mov fs, ax
    dec ax
    mov gs, ax
    mov cx, 1000
    push dword ptr fs:[0x200]           # the vector of int 0x80, which no BIOS uses
a20_probe:
    inc word ptr fs:[0x200]
    out 0x80, al                        # about a microsecond
    mov ax, word ptr gs:[0x210]
    cmp ax, word ptr fs:[0x200]
    jne a20_told
    dec cx
    jnz a20_probe
a20_told:
    pop dword ptr fs:[0x200]            # keeps the flags
    ret

# Waits until the keyboard controller takes a byte; gives up if there is no controller.
keyboard_ready:
    sub cx, cx
keyboard_poll:
    out 0x80, al
    in al, 0x64
    test al, 2
    jz keyboard_taken
    dec cx
    jnz keyboard_poll
keyboard_taken:
    ret

enter_protected_mode:
    cmp dword ptr [REALMODE_SWTCH], 0   # a loader's hook replaces the masking of NMIs
    je no_hook
    lcall word ptr [REALMODE_SWTCH]
    jmp quiet
no_hook:
    cli
    mov al, 0x80
    out 0x70, al
    out 0x80, al
quiet:
    sub al, al                          # a pending coprocessor error would be an interrupt
    out 0xf0, al
    out 0x80, al
    out 0xf1, al
    out 0x80, al
    mov al, 0xff
    out 0xa1, al
    out 0x80, al
    mov al, 0xfb                        # all but the cascade
    out 0x21, al
    out 0x80, al
    sub eax, eax
    mov ax, ds
    shl eax, 4
    add dword ptr [gdt_base], eax
    add dword ptr [flat_entry], eax
    mov esi, BOOT_PARAMS
    add esi, eax
    mov ecx, dword ptr [BP_CODE32_START]
    lidt [no_idt]
    lgdt [gdt_limit]
    mov edx, cr0
    or dl, 1
    mov cr0, edx
    jmp flush_prefetch
flush_prefetch:
    .byte 0x66, 0xea                    # jmp far 0x10:flat_entry
flat_entry:
    .long flat
    .word 0x10

.code32
flat:
    mov eax, 0x18
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov ss, eax
    lea esp, [esi + STACK_TOP]
    sub esp, BOOT_PARAMS
    sub ebx, ebx
    sub ebp, ebp
    sub edi, edi
    jmp ecx

.balign 8
gdt:
    .quad 0
    .quad 0
    .quad 0x00cf9b000000ffff            # 0x10: code, 4 GiB from 0
    .quad 0x00cf93000000ffff            # 0x18: data, 4 GiB from 0
gdt_limit:
    .word 31
gdt_base:
    .long gdt
no_idt:
    .word 0
    .long 0

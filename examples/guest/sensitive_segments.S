# SPDX-License-Identifier: GPL-2.0-only OR MIT
# What segment registers hold and accept: MOV, PUSH and POP of each, LDS, LES, LFS, LGS, LSS.
# CS and SS are printed with RPL 0, since a paravirtual kernel may see RPL 1 in them.

SECTION(.text)

# Clobbers all but ESP; leaves every segment register as the kernel has it.
FUNC(observe_segments)
    mov eax, cs
    mov ecx, ss
    and eax, 0xfffffffc
    and ecx, 0xfffffffc
    REPORT("mov from cs ss: %x %x", eax, ecx)
    push cs
    pop eax
    push ss
    pop ecx
    and eax, 0xfffc
    and ecx, 0xfffc
    REPORT("push cs ss: %x %x", eax, ecx)
    mov dword ptr [segment_word], 0xcccccccc
    mov word ptr [segment_word], ss
    mov eax, [segment_word]
    and eax, 0xfffffffc
    REPORT("mov from ss to memory: %x", eax)

    # Loads of SS with an RPL of 0; each holds interrupts back for one instruction.
    mov eax, KERNEL_DS
    mov ss, eax
    mov ebx, esp
    mov eax, ss
    and eax, 0xfffffffc
    REPORT("mov to ss: %x", eax)
    push KERNEL_DS
    pop ss
    mov ecx, esp
    push ss
    pop ss
    xor eax, eax
    cmp ebx, ecx
    sete al
    REPORT("pop ss: stack as before: %y", eax)
    mov [far_pointer], esp
    mov dword ptr [far_pointer + 4], KERNEL_DS
    sub esp, 64
    lss esp, [far_pointer]
    xor eax, eax
    cmp ebx, esp
    sete al
    REPORT("lss: stack as before: %y", eax)

    # DS and ES, through the user's data descriptor and through the LDT.
    mov ebx, ds
    mov ecx, es
    REPORT("mov from ds es: %x %x", ebx, ecx)
    push ds
    push es
    mov eax, LDT_DATA_SEL
    mov es, eax
    mov ebx, es:[4]
    push KERNEL_DS
    pop ds
    mov ecx, ds
    and ecx, 0xfffffffc
    pop es
    pop ds
    REPORT("es through the ldt: %x, ds: %x", ebx, ecx)
    mov word ptr [far_pointer + 4], LDT_DATA_SEL
    mov dword ptr [far_pointer], 8
    push es
    les eax, [far_pointer]
    mov ebx, es:[eax]
    pop es
    REPORT("les: offset %x word %x", eax, ebx)
    push ds
    mov word ptr [far_pointer + 4], SMALL_SEL
    mov dword ptr [far_pointer], 0
    lds ecx, [far_pointer]
    mov ebx, [ecx]
    mov edx, ds
    pop ds
    REPORT("lds: selector %x offset %x word %x", edx, ecx, ebx)

    # FS and GS; FS is the per-CPU segment.
    mov esi, [cpu_area]
    push fs
    xor eax, eax
    mov fs, eax
    mov ebx, fs
    lfs edx, [small_pointer]
    mov ecx, fs:[edx]
    pop fs
    xor eax, eax
    cmp esi, fs:[CPU_CURRENT]
    sete al
    REPORT("fs: null %x lfs word %x, per-cpu data again: %y", ebx, ecx, eax)
    lgs edx, [small_pointer]
    mov ebx, gs
    mov ecx, gs:[edx]
    push gs
    pop eax
    and eax, 0xffff
    xor edx, edx
    mov gs, edx
    push edx
    pop gs
    REPORT("gs: lgs %x word %x push %x", ebx, ecx, eax)
    ret
END(observe_segments)

# Selectors that cannot be loaded, and accesses through those that forbid it.
FUNC(observe_bad_selectors)
    mov ecx, BEYOND_SEL
    mov eax, NO_FAULT
    EX_NEXT mov es, ecx
    REPORT("mov es: beyond the table: vector %x error %x", eax, [last_error])
    mov ecx, ABSENT_SEL
    mov eax, NO_FAULT
    EX_NEXT mov gs, ecx
    REPORT("mov gs: not present: vector %x error %x", eax, [last_error])
    mov ecx, TSS_SEL
    mov eax, NO_FAULT
    EX_NEXT mov fs, ecx
    REPORT("mov fs: a system descriptor: vector %x error %x", eax, [last_error])
    mov ecx, BEYOND_SEL
    mov eax, NO_FAULT
    EX_NEXT mov ss, ecx
    REPORT("mov ss: beyond the table: vector %x error %x", eax, [last_error])
    mov ecx, PERCPU_SEL
    mov fs, ecx
    # QEMU's TCG checks neither limits nor null selectors: only survival is reported.
    mov ecx, LDT_DATA_SEL
    mov gs, ecx
    EX_NEXT mov ecx, gs:[0x10]
    xor ecx, ecx
    mov gs, ecx
    EX_NEXT mov ecx, gs:[0]
    REPORT("gs: beyond the limit and null: survived")
    ret
END(observe_bad_selectors)

SECTION(.data)

OBJECT(far_pointer, 4)
    .long 0, 0
END(far_pointer)

OBJECT(small_pointer, 4)
    .long 0, SMALL_SEL
END(small_pointer)

OBJECT(segment_word, 4)
    .long 0
END(segment_word)

# SPDX-License-Identifier: GPL-2.0-only OR MIT
# API 13: how the patches of March 2006 look for the ROM, switch, and patch their annotated sites.

# The ROM. Out: its linear address in `rom`, 0: none, or one that is refused. The first is the one.
probe:
    mov ebp, PAGE_OFFSET + 0xc0000
probe_next:
    cmp word ptr [ebp], 0xaa55
    jne probe_step
    cmp dword ptr [ebp + 8], 0x696d5663
    je probe_found
probe_step:
    add ebp, 0x800
    cmp ebp, PAGE_OFFSET + 0xe0000
    jb probe_next
    SAY("no ROM")
    ret
probe_found:
    movzx eax, byte ptr [ebp + 0x0d]
    movzx ecx, byte ptr [ebp + 0x0c]
    SAY("version %x.%x", eax, ecx)
    cmp eax, API
    je probe_version
    SAY("mismatched version %x", eax)
    ret
probe_version:
    movzx eax, byte ptr [ebp + 2]
    shl eax, 9
    cmp eax, WINDOW_LEN
    jbe probe_fits
    SAY("too large: %x", eax)
    ret
probe_fits:
    mov dword ptr [rom], ebp
    ret

# VMI_Init, the ROM over the window of stubs, then every annotated site.
activate:
    mov eax, dword ptr [rom]
    add eax, 4 * 32
    call eax
    test eax, eax
    jz activated
    SAY("failed to initialize")
    mov dword ptr [rom], 0
    ret
activated:
    mov esi, dword ptr [rom]
    movzx ecx, byte ptr [esi + 2]
    shl ecx, 7
    lea edi, [window]
    .byte 0xf3, 0xa5                    # rep movsd

# A record: call, site, translation, u8 length of the site, u8 of the translation. A translation is
# pushes, a call whose displacement is to be set, and `lea esp, [esp + n]`.
patch_sites:
    mov ebp, annotation
patch_next:
    cmp ebp, annotation_end
    jae patched
    cmp dword ptr [ebp], CALLS_13
    jae patch_stops
    mov edi, dword ptr [ebp + 4]
    mov esi, dword ptr [ebp + 8]
    movzx ecx, byte ptr [ebp + 13]
    lea edx, [edi + ecx]                # the end of the translation at the site
    rep movsb
    mov edi, dword ptr [ebp + 4]
patch_walk:
    cmp edi, edx
    jae patch_tail
    mov al, byte ptr [edi]
    cmp al, 0xe8
    je patch_call
    cmp al, 0x68
    je patch_five
    cmp al, 0x6a
    je patch_two
    cmp al, 0x8d
    je patch_lea
    and al, 0xf8
    cmp al, 0x50
    jne patch_stops
    add edi, 1
    jmp patch_walk
patch_call:
    mov eax, dword ptr [ebp]
    shl eax, 5
    add eax, dword ptr [rom]
    sub eax, edi
    sub eax, 5
    mov dword ptr [edi + 1], eax
patch_five:
    add edi, 5
    jmp patch_walk
patch_two:
    add edi, 2
    jmp patch_walk
patch_lea:
    cmp word ptr [edi + 1], 0x2464
    jne patch_stops
    add edi, 4
    jmp patch_walk
patch_tail:
    movzx ecx, byte ptr [ebp + 12]
    add ecx, dword ptr [ebp + 4]
    sub ecx, edi
    jbe patch_done
    mov al, 0x90
    rep stosb
patch_done:
    add ebp, 16
    jmp patch_next
patch_stops:
    SAY("record %x is not one of API 13", ebp)
    jmp finish
patched:
    mov eax, 0                          # serialize
    cpuid
    ret

# Patched a second time, all is as it was. Calls of the window, which are never patched, too.
late_checks:
    cmp dword ptr [rom], 0
    je no_late_checks
    call patch_sites
    call interrupt_checks
    call return_checks
    call window_checks
no_late_checks:
    ret

# The copy of the ROM answers as the ROM does.
window_checks:
    call window_disable_interrupts
    VMI(GET_INTERRUPT_MASK)
    CHECK("IF after the copy's DisableInterrupts", eax, 0)
    call window_enable_interrupts
    call window_get_interrupt_mask
    CHECK("IF in the copy", eax, 0x200)
    mov eax, 0
    call window_set_interrupt_mask
    VMI(GET_INTERRUPT_MASK)
    CHECK("IF after the copy's SetInterruptMask", eax, 0)
    call window_get_cr3
    CHECK("CR3 in the copy", eax, DIRECTORY)
    mov eax, 0x12345000
    call window_set_cr2
    VMI(GET_CR2)
    CHECK("CR2 of the copy", eax, 0x12345000)
    lea eax, [scratch]
    call window_get_idt
    CHECK("IDT in the copy", dword ptr [scratch + 2], IDT)
    call window_rdtsc
    mov esi, eax
    mov edi, edx
    VMI(RDTSC)
    sub esi, eax
    sbb edi, edx
    sbb eax, eax
    CHECK("RDTSC runs forward from copy to ROM", eax, 0xffffffff)
    mov edx, 0x3ff
    mov eax, 0x5a
    call window_outb
    mov eax, 0
    call window_inb
    CHECK("INB in the copy", eax, 0x5a)
    mov ebx, 0x1badcafe
    pushfd
    mov eax, cs
    push eax
    lea eax, [back_from_window]
    push eax
    call window_iret
    SAY("FAIL: IRET of the copy came back")
back_from_window:
    CHECK("EBX after the copy's IRET", ebx, 0x1badcafe)
    ret

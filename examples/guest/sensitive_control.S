# SPDX-License-Identifier: GPL-2.0-only OR MIT
# What control and debug registers hold: MOV CRn, CLTS, LMSW, SMSW, MOV DRn, cache control.

SECTION(.init.text)

FUNC(observe_control)
    mov eax, cr0
    and eax, 0x80010021
    REPORT("cr0: pg wp ne pe %x", eax)
    mov eax, cr0
    or eax, CR0_TS
    mov cr0, eax
    mov ebx, cr0
    clts
    mov ecx, cr0
    and ebx, CR0_TS
    and ecx, CR0_TS
    REPORT("clts: ts %x then %x", ebx, ecx)

    # LMSW can set PE but not clear it, and changes MP, EM and TS.
    smsw eax
    or eax, CR0_TS
    lmsw ax
    smsw ebx
    clts
    and eax, 0xfff7
    mov [machine_word], ax
    lmsw word ptr [machine_word]
    smsw word ptr [machine_word]
    mov cx, [machine_word]
    movzx ecx, cx
    and ebx, 0x2b
    and ecx, 0x2b
    REPORT("smsw: with ts %x without %x", ebx, ecx)

    mov eax, cr0
    or eax, CR0_TS
    mov cr0, eax
    mov eax, NO_FAULT
    EX_NEXT fninit
    REPORT("fninit with ts: vector %x", eax)
    clts
    mov eax, NO_FAULT
    EX_NEXT fninit
    REPORT("fninit without ts: vector %x", eax)

    # CR4 exists where CPUID reports a feature that one of its bits enables; PSE is bit 4.
    xor ebx, ebx
    cmp dword ptr [has_cpuid], 0
    je .Lno_cr4
    mov eax, 1
    push ebx
    cpuid
    pop ebx
    test edx, 8
    jz .Lno_cr4
    mov eax, cr4
    mov ecx, eax
    or eax, 0x10
    mov cr4, eax
    mov edx, cr4
    mov cr4, ecx
    shr edx, 4
    and edx, 1
    mov ebx, edx
.Lno_cr4:
    REPORT("cr4: page size bit can be set: %y", ebx)

    wbinvd
    cli
    # INVD drops what the caches hold, so that it is only executed with nothing in them and where
    # a hypervisor or emulator says it is there (it has to be one: CPUID leaf 1, ECX bit 31).
    cmp dword ptr [has_cpuid], 0
    je .Lno_invd
    mov eax, 1
    cpuid
    bt ecx, 31
    jnc .Lno_invd
    wbinvd
    invd
.Lno_invd:
    sti
    REPORT("wbinvd invd: memory is still there")
    ret
END(observe_control)

SECTION(.text)

# Breakpoint addresses hold what is written; none is enabled.
FUNC(observe_debug)
    mov eax, 0x12345678
    mov dr0, eax
    not eax
    mov dr1, eax
    mov ebx, 0xc0000123
    mov dr2, ebx
    xor ecx, ecx
    mov dr3, ecx
    mov eax, dr0
    mov ebx, dr1
    mov ecx, dr2
    mov edx, dr3
    REPORT("dr0-3: %x %x %x %x", eax, ebx, ecx, edx)
    mov eax, 0xffff0ff0
    mov dr6, eax
    mov eax, 0x400
    mov dr7, eax
    mov ebx, dr6
    mov ecx, dr7
    REPORT("dr6: %x dr7: %x", ebx, ecx)
    ret
END(observe_debug)

SECTION(.init.data)

OBJECT(machine_word, 4)
    .long 0
END(machine_word)

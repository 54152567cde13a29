# SPDX-License-Identifier: GPL-2.0-only OR MIT
# API 3: how Linux 2.6.21-2.6.36 looks for the ROM, switches, and patches its sites.

# The ROM, by the rules of Linux. Out: its linear address in `rom`, 0: none, or one that is refused.
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
    mov dword ptr [minor], ecx
    cmp eax, 3
    je probe_version
    SAY("mismatched version %x", eax)
    ret
probe_version:
    movzx esi, word ptr [ebp + 0x18]
    test esi, esi
    jnz probe_pci
    SAY("no PCI header")
    ret
probe_pci:
    add esi, ebp
    CHECK("PCI signature", dword ptr [esi], 0x52494350)
    cmp dword ptr [esi + 4], 0x080115ad
    je probe_pnp
    SAY("unknown manufacturer")         # no more than a warning
probe_pnp:
    movzx esi, word ptr [ebp + 0x1a]    # the PnP header, if there is one, names the maker
    test esi, esi
    jz probe_licence
    add esi, ebp
    CHECK("PnP signature", dword ptr [esi], 0x506e5024)
    movzx ecx, word ptr [esi + 14]
    add ecx, ebp
    SAY("maker %s", ecx)
probe_licence:
    movzx esi, word ptr [ebp + 0x16]
    add esi, ebp
    cmp word ptr [esi], 0x5047          # "GPL" or "GPL v2"
    jne probe_other_licence
    cmp word ptr [esi + 2], 0x004c
    je probe_licensed
    cmp dword ptr [esi + 2], 0x3276204c
    jne probe_other_licence
    cmp byte ptr [esi + 6], 0
    je probe_licensed
probe_other_licence:
    SAY("licence %s", esi)
    ret
probe_licensed:
    mov eax, dword ptr [ebp + 0x10]
    SAY("version 3.%x, hole from %x", dword ptr [minor], eax)
    mov dword ptr [rom], ebp
    ret

# VMI_Init, then every site: what GetRelocationInfo says becomes of it.
activate:
    call remember_answers
    mov eax, dword ptr [rom]
    add eax, 0x80
    call eax
    test eax, eax
    jz activated
    SAY("failed to initialize")
    mov dword ptr [rom], 0
    ret
activated:
    mov dword ptr [iret_pointer], 0x0badbab0
    mov dword ptr [sysexit_pointer], 0xfeedbab0

# Every site as GetRelocationInfo wants it; again later, when most are calls already.
patch_sites:
    mov esi, sites
patch_next:
    cmp esi, sites_end
    jae patched
    mov eax, dword ptr [esi + 4]
    call relocation
    mov edi, dword ptr [esi]
    movzx ecx, byte ptr [esi + 8]
    cmp edx, 0
    je patch_done                       # NONE: native
    cmp edx, 3
    je patch_pad                        # NOP
    mov bl, 0xe8
    cmp edx, 1
    je patch_near
    mov bl, 0xe9
    mov edx, dword ptr [esi + 4]        # a jump, where the kernel has a pointer and no site
    sub edx, 29
    cmp edx, 5
    jbe patch_near
    SAY("jump refused for call %x", dword ptr [esi + 4])
    jmp finish
patch_near:
    mov byte ptr [edi], bl
    sub eax, edi
    sub eax, 5
    mov dword ptr [edi + 1], eax
    add edi, 5
    sub ecx, 5
patch_pad:
    mov al, 0x90
    rep stosb
patch_done:
    add esi, 12
    jmp patch_next
patched:
    mov eax, 0                          # serialize
    cpuid
    ret

# In: eax = call number. Out: eax = address, edx = type: 0 without a ROM. Clobbers ecx.
relocation:
    mov edx, 0
    mov ecx, dword ptr [rom]
    jecxz no_relocation
    add ecx, 0x88
    call ecx
no_relocation:
    ret

# What the ROM answers for each number there is, to be compared later: VMI_Init must not change it.
remember_answers:
    mov esi, 0
remember_next:
    mov eax, esi
    call relocation
    mov dword ptr [ANSWERS + 8*esi], eax
    mov dword ptr [ANSWERS + 8*esi + 4], edx
    inc esi
    cmp esi, ANSWER_COUNT
    jb remember_next
    ret

# Linux asks a second time, when it has made many calls already.
late_checks:
    cmp dword ptr [rom], 0
    je no_late_checks
    mov esi, 0
late_next:
    mov eax, esi
    call relocation
    CHECK("address asked late", eax, dword ptr [ANSWERS + 8*esi])
    CHECK("type asked late", edx, dword ptr [ANSWERS + 8*esi + 4])
    inc esi
    cmp esi, ANSWER_COUNT
    jb late_next
    mov eax, 0xffffffff                 # what no version has
    call relocation
    CHECK("type of no call", edx, 0)
    mov eax, 1000
    call relocation
    CHECK("type of call 1000", edx, 0)
    mov eax, 42                         # whose meaning is not written down
    call relocation
    CHECK("type of MachineToPhysical", edx, 0)
    mov eax, 43
    call relocation
    CHECK("type of PhysicalToMachine", edx, 0)
    mov eax, 72
    call relocation
    CHECK("type of SetCallbacks", edx, 0)
    call patch_sites
    call interrupt_checks
    call return_checks
no_late_checks:
    ret

# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Is there a VMI ROM we may use?
#
# Option ROMs stand at multiples of 2 KiB from 0xC0000 to 0xDFFFF of physical memory. As in Linux
# 2.6.21-2.6.36, the first with a VMI signature decides, and it must have our major version, a PCI
# header, and a licence string of `GPL` or `GPL v2`; a checksum of 0 is demanded besides.
#
# A ROM of API 13 has neither answers to relocations nor a table of fallbacks. Ours for hypervisors
# has them besides, in the places of API 3, and says so at 0x70 (docs/decisions/0050).
#
# In:       EBP = relocation
# Out:      EDI = the ROM, or 0 and EAX = linked address of a message
# Clobbers: EAX, EBX, ECX, EDX, ESI, flags

vmi_find_rom:
    mov edi, fact_page_offset + 0xC0000
vmi_next_place:
    cmp word ptr [edi], 0xAA55
    jne vmi_not_here
    cmp dword ptr [edi + 8], 0x696D5663     # "cVmi"
    je vmi_found
vmi_not_here:
    add edi, 0x800
    cmp edi, fact_page_offset + 0xE0000
    jb vmi_next_place
    mov eax, vmi_said_no_rom
    xor edi, edi
    ret

vmi_found:
    movzx ecx, word ptr [edi + 0xC]         # CL = minor, CH = major version
    cmp ch, older_major
    jne vmi_versioned
    mov eax, vmi_said_older
    cmp dword ptr [edi + answers_off], answers_signature
    jne vmi_refused
    movzx ecx, word ptr [edi + answers_off + 4]
vmi_versioned:
    mov eax, vmi_said_version
    cmp ch, api_major
    jne vmi_refused
    cmp cl, api_minor
    jb vmi_refused
    mov eax, vmi_said_pci
    cmp word ptr [edi + 0x18], 0
    je vmi_refused

    mov eax, vmi_said_licence
    movzx esi, word ptr [edi + 0x16]
    add esi, edi
    cmp word ptr [esi], 0x5047              # "GP"
    jne vmi_refused
    cmp word ptr [esi + 2], 0x004C          # "L", end
    je vmi_licensed
    cmp dword ptr [esi + 2], 0x3276204C     # "L v2"
    jne vmi_refused
    cmp byte ptr [esi + 6], 0
    jne vmi_refused

vmi_licensed:
    mov eax, vmi_said_checksum
    movzx ecx, byte ptr [edi + 2]
    shl ecx, 9
    jz vmi_refused
    mov esi, edi
    xor edx, edx
vmi_add_byte:
    add dl, byte ptr [esi]
    inc esi
    dec ecx
    jnz vmi_add_byte
    test dl, dl
    jnz vmi_refused
    ret

vmi_refused:
    xor edi, edi
    ret

# At CPL 0 the ROM's code is brought into the kernel's text: later the kernel makes low memory
# non-executable. A ROM of API 3.1 that leaves us at CPL 0 works wherever it stands. A hypervisor
# knows its ROM by its place, and hides NX.
#
# In:       EBP = relocation, EDI = the ROM
# Out:      EDI = the ROM to use
# Clobbers: EAX, ECX, ESI, flags
vmi_bring_in:
    mov eax, cs
    test al, 3
    jnz vmi_brought
    movzx ecx, byte ptr [edi + 2]
    shl ecx, 9
    cmp ecx, fact_copy_len
    ja vmi_brought
    mov esi, edi
    lea edi, [ebp + fact_copy]
    push edi
    rep movsb
    pop edi
vmi_brought:
    ret

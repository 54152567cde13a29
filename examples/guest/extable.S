# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Where a faulting kernel instruction goes on: binary search in __ex_table.

SECTION(.text)

# in: EAX = address of the instruction; out: EAX = its entry or 0; clobbers ECX, EDX
FUNC(search_extable)
    push ebx
    push esi
    push edi
    mov esi, __start___ex_table
    mov edi, __stop___ex_table
.Lhalve:
    cmp esi, edi
    jae .Lno_entry
    push eax
    mov eax, edi
    sub eax, esi
    xor edx, edx
    mov ecx, 24
    div ecx
    lea eax, [eax + eax * 2]
    lea ebx, [esi + eax * 4]
    pop eax
    mov ecx, [ebx]
    add ecx, ebx
    cmp eax, ecx
    je .Lfound
    jb .Llower
    lea esi, [ebx + 12]
    jmp .Lhalve
.Llower:
    mov edi, ebx
    jmp .Lhalve
.Lno_entry:
    xor ebx, ebx
.Lfound:
    mov eax, ebx
    pop edi
    pop esi
    pop ebx
    ret
END(search_extable)

# Lead a frame to its fixup; the way depends on the type of the entry.
# in: EAX = frame; out: EAX = whether there was an entry; clobbers ECX, EDX
FUNC(fixup_exception)
    push ebx
    mov ebx, eax
    mov eax, [eax + REG_IP]
    call search_extable
    test eax, eax
    jz .Lfixup_done
    mov edx, [eax + 4]
    lea edx, [eax + edx + 4]
    mov [ebx + REG_IP], edx
    mov ecx, [eax + 8]
    cmp ecx, 2
    ja .Lfixup_unknown
    jmp dword ptr [fixup_kinds + ecx * 4]
fixup_with_vector:
    mov edx, [ebx + REG_VECTOR]
    mov [ebx + REG_AX], edx
fixup_plain:
    mov eax, 1
.Lfixup_done:
    pop ebx
    ret
.Lfixup_unknown:
    xor eax, eax
    jmp .Lfixup_done
END(fixup_exception)

SECTION(.rodata)

# A jump table, as a compiler makes them of `switch (type)`.
fixup_kinds:
    .long fixup_plain, fixup_plain, fixup_with_vector

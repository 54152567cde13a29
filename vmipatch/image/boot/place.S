# SPDX-License-Identifier: GPL-2.0-only OR MIT
# How the kernel gets to where it runs: copies its segments, relocates them, jumps to its entry.
#
# In:  ebx = the image, ebp = where the kernel runs by default, esi = boot_params.
# Out: the kernel's entry with esi = boot_params, ebx = ebp = edi = 0, interrupts off.
# From outside, offsets in the image: STACK_TOP, TABLE_OFF (SEGMENTS records of four words: offset of
# the bytes, linked physical address, length, zeros after them), LIST_OFF (LIST_COUNT linked virtual
# addresses of words to add the distance to); LINKED_PA, ENTRY_PA, PA_MINUS_VA (modulo 4 GiB);
# RANDOM, 1 if a slot may be chosen; choose_slot.

.set BP_LOADFLAGS, 0x211
.set NOT_KASLR, 0xfd

place:
    lea esp, [ebx + STACK_TOP]
    and byte ptr [esi + BP_LOADFLAGS], NOT_KASLR
    mov ecx, RANDOM
    jecxz chosen
    call choose_slot
chosen:
    mov edx, ebp
    sub edx, LINKED_PA                  # how far from the linked address
    push esi
    mov ecx, SEGMENTS                   # keystone makes a 16-bit push of a small constant
    push ecx
    lea ebp, [ebx + TABLE_OFF]
next_segment:
    mov esi, dword ptr [ebp]
    add esi, ebx
    mov edi, dword ptr [ebp + 4]
    add edi, edx
    mov ecx, dword ptr [ebp + 8]
    shr ecx, 2
    rep movs dword ptr es:[edi], dword ptr [esi]
    mov ecx, dword ptr [ebp + 8]
    and ecx, 3
    rep movsb
    sub eax, eax
    mov ecx, dword ptr [ebp + 12]
    shr ecx, 2
    rep stosd
    mov ecx, dword ptr [ebp + 12]
    and ecx, 3
    rep stosb
    add ebp, 16
    dec dword ptr [esp]
    jnz next_segment
    pop ecx

    test edx, edx
    jz start_kernel
    lea esi, [ebx + LIST_OFF]
    mov ecx, LIST_COUNT
    jecxz start_kernel
next_word:
    lodsd
    add dword ptr [eax + edx + PA_MINUS_VA], edx
    dec ecx
    jnz next_word

start_kernel:
    pop esi
    lea eax, [edx + ENTRY_PA]
    sub ebx, ebx
    sub ebp, ebp
    sub edi, edi
    jmp eax

# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Where a loader enters the image in protected mode: moves it out of the way of the kernel it holds.
#
# In:  esi = boot_params, flat segments, interrupts off; anywhere in memory; no stack.
# Out: `place` with ebx = where the image now stands, ebp = where the kernel runs unless a random
#      slot is chosen, esi = boot_params.
# The image goes to the top of the memory that the header's init_size claims, so that copying the
# segments upwards never overwrites a byte that is still to be copied (wrap.py has the arithmetic).
# From outside: LINKED_PA, ALIGN_MINUS_1, FOLLOW_MASK (0 if the kernel cannot follow the loader, else
# -alignment), STAGE_OFF (from the kernel to the image), IMAGE_LEN (a multiple of 4), PLACE_OFF.
# Linked at 0, as the first byte of the image.

.set BP_SCRATCH, 0x1e4
.set BP_SETUP_DATA, 0x250

entry:
    cli
    cld
    lea esp, [esi + BP_SCRATCH + 4]     # room for one word, enough to learn where this stands
    call here
here:
    pop ebp
    sub ebp, here                       # ebp = load address
    mov eax, ebp
    sub eax, LINKED_PA
    jae loaded_above
    sub eax, eax
loaded_above:
    add eax, ALIGN_MINUS_1
    and eax, FOLLOW_MASK
    lea edi, [eax + LINKED_PA]          # [edi, ebx) will be overwritten
    lea ebx, [edi + STAGE_OFF]
    add ebx, IMAGE_LEN

# Loaders have put setup_data where the header forbids it (QEMU 7.2 its random seed, right after
# the image). Such a node is taken out of the list before it turns into something else.
    lea ecx, [esi + BP_SETUP_DATA]      # the link that is looked at
next_node:
    mov eax, dword ptr [ecx]
    test eax, eax
    jz nodes_done
    cmp dword ptr [ecx + 4], 0
    jne nodes_done
    cmp eax, ebx
    jae keep_node
    mov edx, dword ptr [eax + 12]
    lea edx, [eax + edx + 16]
    cmp edx, edi
    jbe keep_node
    mov edx, dword ptr [eax]
    mov dword ptr [ecx], edx
    mov edx, dword ptr [eax + 4]
    mov dword ptr [ecx + 4], edx
    jmp next_node
keep_node:
    mov ecx, eax
    jmp next_node

nodes_done:
    mov edx, esi
    mov eax, edi
    lea ebx, [edi + STAGE_OFF]
    lea esi, [ebp + IMAGE_LEN - 4]      # the new place is above and may overlap: from the end
    lea edi, [ebx + IMAGE_LEN - 4]
    mov ecx, IMAGE_LEN
    shr ecx, 2
    std
    rep movs dword ptr es:[edi], dword ptr [esi]
    cld
    mov esi, edx
    mov ebp, eax
    lea eax, [ebx + PLACE_OFF]
    jmp eax

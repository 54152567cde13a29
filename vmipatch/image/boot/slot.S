# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Where a relocatable kernel runs: one of the free slots of memory, at random.
#
# choose_slot
# In:       ebx = the image, ebp = the default slot, esi = boot_params, a stack in the image.
# Out:      ebp = the slot; KASLR_FLAG set in loadflags if the command line did not refuse.
# Clobbers: eax, ecx, edx, edi, flags.
# From outside: ALIGN (from slot to slot), SPAN (bytes of a kernel in memory), LAST_SLOT (the highest
# address that keeps the kernel below KERNEL_IMAGE_SIZE), IMAGE_LEN, CMDLINE_LEN.
# Linked at its offset in the image.

.set BP_E820_ENTRIES, 0x1e8
.set BP_LOADFLAGS, 0x211
.set BP_RAMDISK_IMAGE, 0x218
.set BP_RAMDISK_SIZE, 0x21c
.set BP_CMD_LINE_PTR, 0x228
.set BP_SETUP_DATA, 0x250
.set BP_E820_TABLE, 0x2d0
.set BP_LEN, 4096
.set KASLR_FLAG, 2
.set E820_RAM, 1

choose_slot:
    call refused
    jc slot_chosen
    or byte ptr [esi + BP_LOADFLAGS], KASLR_FLAG
    sub edi, edi                        # how many slots are usable
    mov eax, ebp
count_slot:
    call usable
    adc edi, 0
    add eax, ALIGN
    cmp eax, LAST_SLOT
    jbe count_slot
    call entropy
    mul edi                             # edx = below the count, evenly
    mov edi, edx
    mov eax, ebp
    jmp try_slot
skip_slot:
    dec edi
next_slot:
    add eax, ALIGN
try_slot:
    call usable
    jnc next_slot
    test edi, edi
    jnz skip_slot
    mov ebp, eax
slot_chosen:
    ret

# Whether the kernel may run at eax. In: eax, ebx, ebp, esi as above. Out: CF set if so. Keeps the rest.
# The default slot always is: the loader was told to keep it free, and the copy is safe there.
usable:
    pushad
    cmp eax, ebp
    je is_usable
    lea edx, [eax + SPAN]
    mov edi, ebx
    lea ecx, [edi + IMAGE_LEN]
    call overlaps
    jc not_usable
    mov edi, esi
    lea ecx, [edi + BP_LEN]
    call overlaps
    jc not_usable
    mov edi, dword ptr [esi + BP_CMD_LINE_PTR]
    lea ecx, [edi + CMDLINE_LEN]
    call overlaps
    jc not_usable
    mov edi, dword ptr [esi + BP_RAMDISK_IMAGE]
    mov ecx, dword ptr [esi + BP_RAMDISK_SIZE]
    add ecx, edi
    call overlaps
    jc not_usable
    lea ebp, [esi + BP_SETUP_DATA]
next_node:
    mov edi, dword ptr [ebp]
    test edi, edi
    jz nodes_done
    cmp dword ptr [ebp + 4], 0          # above 4 GiB, where no kernel goes
    jne nodes_done
    mov ecx, dword ptr [edi + 12]
    lea ecx, [edi + ecx + 16]
    call overlaps
    jc not_usable
    mov ebp, edi
    jmp next_node
nodes_done:
    call is_ram
    jc is_usable
not_usable:
    popad
    clc
    ret
is_usable:
    popad
    stc
    ret

# Out: CF set if [edi, ecx) and [eax, edx) have a byte in common. Keeps all registers.
overlaps:
    cmp edi, edx
    jae overlaps_told                   # CF is clear
    cmp eax, ecx
overlaps_told:
    ret

# Out: CF set if one RAM range of the memory map holds [eax, edx) and no other range touches it.
# Clobbers ecx, esi, edi, ebp.
is_ram:
    sub ebp, ebp                        # RAM seen
    movzx ecx, byte ptr [esi + BP_E820_ENTRIES]
    lea esi, [esi + BP_E820_TABLE]
next_range:
    jecxz ranges_done
    push ecx
    mov edi, dword ptr [esi]
    cmp dword ptr [esi + 4], 0
    jne range_done
    mov ecx, edi
    add ecx, dword ptr [esi + 8]
    jc clip_range
    cmp dword ptr [esi + 12], 0
    je range_known
clip_range:
    mov ecx, 0xffffffff
range_known:
    cmp dword ptr [esi + 16], E820_RAM
    jne other_range
    cmp eax, edi
    jb range_done
    cmp edx, ecx
    ja range_done
    inc ebp
    jmp range_done
other_range:
    call overlaps
    jnc range_done
    pop ecx
    clc
    ret
range_done:
    pop ecx
    add esi, 20
    dec ecx
    jmp next_range
ranges_done:
    neg ebp                             # CF = not zero
    ret

# Out: eax = 32 bits that the next boot will not have. Clobbers ecx, edx.
# Everything in boot_params, the phase of the timer, and what the processor has to offer.
entropy:
    push ebx
    sub eax, eax
    mov ecx, BP_LEN / 4
hash_word:
    xor eax, dword ptr [esi + ecx * 4 - 4]
    imul eax, eax, 0x9e3779b1
    rol eax, 13
    dec ecx
    jnz hash_word
    push eax
    sub eax, eax
    out 0x43, al                        # latch counter 0
    in al, 0x40
    mov ah, al
    in al, 0x40
    xor dword ptr [esp], eax
    pushfd                              # a 486 may lack cpuid: then EFLAGS.ID does not change
    pop eax
    mov ecx, eax
    xor eax, 0x200000
    push eax
    popfd
    pushfd
    pop eax
    cmp eax, ecx
    je no_cpuid
    mov eax, 1
    cpuid
    push ecx
    test edx, 0x10
    jz no_tsc
    rdtsc
    xor dword ptr [esp + 4], eax
    rol dword ptr [esp + 4], 16
    xor dword ptr [esp + 4], edx
no_tsc:
    pop ecx
    bt ecx, 30
    jnc no_cpuid
    rdrand eax
    xor dword ptr [esp], eax
no_cpuid:
    pop eax
    mov ecx, 2                          # every bit of the sum reaches the upper bits
mix:
    mov edx, eax
    shr edx, 16
    xor eax, edx
    imul eax, eax, 0x9e3779b1
    dec ecx
    jnz mix
    mov edx, eax
    shr edx, 16
    xor eax, edx
    pop ebx
    ret

# Out: CF set if the command line has one of `refusals` as a word. Clobbers eax, ecx, edx, edi.
refused:
    mov edi, dword ptr [esi + BP_CMD_LINE_PTR]
    test edi, edi
    jz not_refused
next_word:
    mov al, byte ptr [edi]
    test al, al
    jz not_refused
    cmp al, 0x20
    ja at_word
    inc edi
    jmp next_word
at_word:
    lea edx, [ebx + refusals]
next_refusal:
    mov ecx, edi
next_letter:
    mov al, byte ptr [edx]
    test al, al
    jz refusal_ends
    cmp al, byte ptr [ecx]
    jne pass_refusal
    inc edx
    inc ecx
    jmp next_letter
refusal_ends:
    cmp byte ptr [edx - 1], 0x3d        # "=": any value may follow
    je is_refused
    cmp byte ptr [ecx], 0x20
    jbe is_refused
pass_refusal:
    mov al, byte ptr [edx]
    inc edx
    test al, al
    jnz pass_refusal
    cmp byte ptr [edx], 0
    jne next_refusal
pass_word:
    inc edi
    cmp byte ptr [edi], 0x20
    ja pass_word
    jmp next_word
not_refused:
    clc
    ret
is_refused:
    stc
    ret

# mem= and memmap= take memory away that the map still shows: nothing is moved then.
refusals:
    .asciz "nokaslr"
    .asciz "mem="
    .asciz "memmap="
    .byte 0

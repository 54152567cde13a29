# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Are the annotations, and the code they describe, what the rewriter wrote?
#
# The annotation segment lies in memory that is not reserved: a boot loader might have put something
# over it. Its words are added up, and so are the first two bytes of every site.
#
# In:       EBP = relocation
# Out:      EAX = 0, or linked address of a message
# Clobbers: EBX, ECX, EDX, ESI, flags

vmi_check_kernel:
    lea esi, [ebp + fact_sum_start]
    lea ecx, [ebp + fact_sum_end]
    xor edx, edx
vmi_add_word:
    add edx, dword ptr [esi]
    add esi, 4
    cmp esi, ecx
    jb vmi_add_word
    mov eax, vmi_said_damaged
    cmp edx, dword ptr [ebp + vmi_segment_sum]
    jne vmi_checked

    lea esi, [ebp + fact_annotation]
    lea ecx, [ebp + fact_annotation_end]
    xor edx, edx
vmi_add_site:
    mov ebx, dword ptr [esi + 4]            # linked address of the site
    movzx ebx, word ptr [ebx + ebp]
    add edx, ebx
    add esi, 16
    cmp esi, ecx
    jb vmi_add_site
    mov eax, vmi_said_changed
    cmp edx, dword ptr [ebp + vmi_native_sum]
    jne vmi_checked
    xor eax, eax
vmi_checked:
    ret

# The sums are written when everything else has its place.
vmi_segment_sum:
    .long 0
vmi_native_sum:
    .long 0

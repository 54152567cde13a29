# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Descriptors and page tables: stores to the guest's own memory, which both worlds read as it is.
# All preserve everything, EFLAGS too.

# In:       eax = base of the table, edx = index, ecx = low word, 4(esp) = high word.
BODY(WRITE_GDT_ENTRY, native)
    mov dword ptr [eax + 8*edx], ecx
    push ecx
    mov ecx, dword ptr [esp + 8]
    mov dword ptr [eax + 8*edx + 4], ecx
    pop ecx
    ret

BODY(WRITE_LDT_ENTRY, native)
    mov dword ptr [eax + 8*edx], ecx
    push ecx
    mov ecx, dword ptr [esp + 8]
    mov dword ptr [eax + 8*edx + 4], ecx
    pop ecx
    ret

BODY(WRITE_IDT_ENTRY, native)
    mov dword ptr [eax + 8*edx], ecx
    push ecx
    mov ecx, dword ptr [esp + 8]
    mov dword ptr [eax + 8*edx + 4], ecx
    pop ecx
    ret

# In:       eax = entry, edx = its address, ecx = flags, needed only with a shadow.
BODY(SET_PXE, native)
    mov dword ptr [edx], eax
    ret

# In:       eax, edx = low and high word of the entry, ecx = its address, 4(esp) = flags.
# Not present while its halves differ.
BODY(SET_PXE_LONG, native)
    mov dword ptr [ecx], 0
    mov dword ptr [ecx + 4], edx
    mov dword ptr [ecx], eax
    ret

# In:       eax = 1 translations of this address space, 2 global ones too.
BODY(FLUSH_TLB, native)
    pushfd
    push ecx
    mov ecx, cr4
    test al, 2
    jz .Lnot_global
    test cl, 0x80                       # CR4.PGE: without it nothing is global
    jz .Lreload
    and cl, 0x7f
    mov cr4, ecx
    or cl, 0x80
    mov cr4, ecx
    jmp .Lflushed
.Lnot_global:
    test al, 1
    jz .Lflushed
.Lreload:
    mov ecx, cr3
    mov cr3, ecx
.Lflushed:
    pop ecx
    popfd
    ret

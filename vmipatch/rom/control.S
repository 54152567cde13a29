# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Control and debug registers, caches, CPUID. All preserve everything but their results, and EFLAGS
# (which the manual calls undefined after a move to or from these registers; no processor minds).

# In: eax = value.
BODY(SET_CR0, native)
    mov cr0, eax
    ret

BODY(SET_CR2, native)
    mov cr2, eax
    ret

BODY(SET_CR3, native)
    mov cr3, eax
    ret

BODY(SET_CR4, native)
    mov cr4, eax
    ret

# Out: eax = value.
BODY(GET_CR0, native)
    mov eax, cr0
    ret

BODY(GET_CR0, paravirt)
    mov eax, dword ptr ss:[SHARED_CR0]
    ret

BODY(GET_CR2, native)
    mov eax, cr2
    ret

BODY(GET_CR2, paravirt)
    mov eax, dword ptr ss:[SHARED_CR2]
    ret

BODY(GET_CR3, native)
    mov eax, cr3
    ret

BODY(GET_CR3, paravirt)
    mov eax, dword ptr ss:[SHARED_CR3]
    ret

BODY(GET_CR4, native)
    mov eax, cr4
    ret

BODY(GET_CR4, paravirt)
    mov eax, dword ptr ss:[SHARED_CR4]
    ret

BODY(CLTS, native)
    clts
    ret

BODY(WBINVD, native)
    wbinvd
    ret

# In: eax = linear address.
BODY(INVAL_PAGE, native)
    invlpg [eax]
    ret

# In: eax = leaf, ecx = subleaf. Out: eax, ebx, ecx, edx.
BODY(CPUID, native)
    cpuid
    ret

# In: eax = number, edx = value. A number without a register (4 and 5 are old names of 6 and 7)
# does nothing. Counting down by LEA keeps the flags.
BODY(SET_DR, native)
    push ecx
    mov ecx, eax
    jecxz .Lset_dr0
    lea ecx, [ecx - 1]
    jecxz .Lset_dr1
    lea ecx, [ecx - 1]
    jecxz .Lset_dr2
    lea ecx, [ecx - 1]
    jecxz .Lset_dr3
    lea ecx, [ecx - 1]
    jecxz .Lset_dr6
    lea ecx, [ecx - 1]
    jecxz .Lset_dr7
    lea ecx, [ecx - 1]
    jecxz .Lset_dr6
    lea ecx, [ecx - 1]
    jecxz .Lset_dr7
    pop ecx
    ret
.Lset_dr0:
    mov dr0, edx
    pop ecx
    ret
.Lset_dr1:
    mov dr1, edx
    pop ecx
    ret
.Lset_dr2:
    mov dr2, edx
    pop ecx
    ret
.Lset_dr3:
    mov dr3, edx
    pop ecx
    ret
.Lset_dr6:
    mov dr6, edx
    pop ecx
    ret
.Lset_dr7:
    mov dr7, edx
    pop ecx
    ret

# In: eax = number as above. Out: eax = value, or the number if it has no register.
BODY(GET_DR, native)
    push ecx
    mov ecx, eax
    jecxz .Lget_dr0
    lea ecx, [ecx - 1]
    jecxz .Lget_dr1
    lea ecx, [ecx - 1]
    jecxz .Lget_dr2
    lea ecx, [ecx - 1]
    jecxz .Lget_dr3
    lea ecx, [ecx - 1]
    jecxz .Lget_dr6
    lea ecx, [ecx - 1]
    jecxz .Lget_dr7
    lea ecx, [ecx - 1]
    jecxz .Lget_dr6
    lea ecx, [ecx - 1]
    jecxz .Lget_dr7
    pop ecx
    ret
.Lget_dr0:
    mov eax, dr0
    pop ecx
    ret
.Lget_dr1:
    mov eax, dr1
    pop ecx
    ret
.Lget_dr2:
    mov eax, dr2
    pop ecx
    ret
.Lget_dr3:
    mov eax, dr3
    pop ecx
    ret
.Lget_dr6:
    mov eax, dr6
    pop ecx
    ret
.Lget_dr7:
    mov eax, dr7
    pop ecx
    ret

# SPDX-License-Identifier: GPL-2.0-only OR MIT
# What a guest tells and no ROM needs: page tables and stack are read where the guest has them,
# and updates take effect at once. All preserve everything, EFLAGS too.

# In:       eax = selector (in 13.0 the address of the TSS), edx = stack pointer.
BODY(UPDATE_KERNEL_STACK, native)
    ret

# In:       eax = address of the entry, edx = flags.
BODY(UPDATE_PXE, native)
    ret

BODY(UPDATE_PXE_LONG, native)
    ret

# In:       eax = page frame, edx = flags, ecx = frame to clone, 4(esp) = base, 8(esp) = count.
BODY(ALLOCATE_PAGE, native)
    ret

# In:       eax = page frame, edx = flags.
BODY(RELEASE_PAGE, native)
    ret

# In:       eax = slot, edx = linear address, ecx = pages, 4(esp) = first page frame.
BODY(SET_LINEAR_MAPPING, native)
    ret

# In:       eax = address of the state, edx = APIC number. Hardware starts it in real mode, as ever;
#           the hypervisor has an entry of its own.
BODY(SET_INITIAL_AP_STATE, native)
    ret

# In:       eax = mode.
BODY(SET_LAZY_MODE, native)
    ret

# SPDX-License-Identifier: GPL-2.0-only OR MIT
# The two entries of the header. Position independent: SeaBIOS puts a ROM where it has room.

# In:       interrupts off.
# Out:      eax = 0, or INIT_RESULT if the ROM was built to fail.
BODY(INIT, native)
    mov eax, INIT_RESULT
    ret

# In:       interrupts off; CPL 1, where the hypervisor runs a guest from its first instruction on.
# Out:      eax = 0: paravirtual from now on; else no such hypervisor, nothing has changed.
# Clobbers: flags.
BODY(INIT, paravirt)
    mov eax, ss                         # CS may be the boot loader's, which shows no ring
    and eax, 3
    cmp eax, 1                          # at CPL 0 the interrupt would be the kernel's own
    mov eax, -1
    jne .Lno_hypervisor
    int INT_INIT
.Lno_hypervisor:
    ret

# In:       eax = call number.
# Out:      eax = address of the entry or 0, edx = relocation type.
# Preserves the rest, and EFLAGS.
BODY(GET_RELOC, any)
    pushfd
    push ecx
    mov ecx, eax
    call .Lbehind_answers               # the return address is that of the table
answers:                                # u16 offset of the entry from here, u8 0, u8 type
    ANSWERS
.Lbehind_answers:
    pop eax
    cmp ecx, CALL_COUNT
    jb .Lknown
    mov ecx, CALL_COUNT                 # the row after the last call says NONE
.Lknown:
    mov edx, dword ptr cs:[eax + 4*ecx]
    movzx ecx, dx
    shr edx, 24
    add eax, ecx
    jecxz .Lno_entry
    jmp .Lanswer
.Lno_entry:
    mov eax, 0
.Lanswer:
    pop ecx
    popfd
    ret

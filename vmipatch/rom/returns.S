# SPDX-License-Identifier: GPL-2.0-only OR MIT
# Returns from the kernel. DS, ES, FS and GS may be the user's.

# In:       0(esp) = after the call, then the frame: EIP, CS, EFLAGS and what they entail.
# The frame is returned to; only IRET itself changes registers and flags.
BODY(IRET, native)
    lea esp, [esp + 4]
    iretd

# As above; CS with RPL 0 becomes RPL 1 in the frame. A return to the same level pops no SS.
# What the hardware cannot do at CPL 1 (EFLAGS.VM, IOPL: iopl(2) of Linux up to 5.4 changes it in
# the frame) and a return with an event waiting are the hypervisor's.
#
# So is a return on another stack segment than that of VMI_Init: Linux comes here with a base in SS
# when the user's stack is one of 16 bits (espfix), and %ss: would not reach the shared page.
#
# An event may come at any instruction. As long as virtual IF is off it waits, so it is switched off
# first: an IRET in a handler would otherwise write another site over ours. From the store of the
# frame's IF on, the restart table tells the hypervisor how to get back to `iret_again`.
BODY(IRET, paravirt)
    push ecx
    mov ecx, ss
iret_compares_stack:                    # the hypervisor puts minus the selector here
    lea ecx, [ecx - 0x7FFFFFFF]
    jecxz .Lflat_stack
    pop ecx
    HYPERCALL CALL_IRET
.Lflat_stack:
    pop ecx
    mov dword ptr ss:[SHARED_VIRTUAL_IF], 0
    xchg ecx, dword ptr [esp]           # ECX is kept where the return address was
    lea ecx, [ecx - 5]
    mov dword ptr ss:[SHARED_IRET_SITE], ecx
iret_ecx_saved:                         # ECX, EIP, CS, EFLAGS
    movzx ecx, byte ptr [esp + 14]
    movzx ecx, byte ptr cs:[bit1_of + ecx]
    jecxz .Lprotected_mode
    jmp .Lhypervisor_returns
.Lprotected_mode:
    movzx ecx, byte ptr [esp + 13]
    lea ecx, [ecx * 4]
    movzx ecx, cl                       # bits 6 and 7 gone
    lea ecx, [ecx * 4]
    movzx ecx, ch                       # IOPL
    jecxz .Lno_iopl
    jmp .Lhypervisor_returns
.Lno_iopl:
    movzx ecx, byte ptr [esp + 8]
    mov cl, byte ptr cs:[rpl1_of + ecx]
    mov byte ptr [esp + 8], cl
    movzx ecx, byte ptr [esp + 13]
    movzx ecx, byte ptr cs:[bit1_of + ecx]
    mov byte ptr ss:[SHARED_VIRTUAL_IF + 1], cl
iret_if_stored:
    jecxz .Lreturn
    mov ecx, dword ptr ss:[SHARED_PENDING]
    jecxz .Lreturn
.Lhypervisor_returns:
    pop ecx
iret_gives_up:
    int INT_IRET
    ud2                                 # control never comes back here
.Lreturn:
iret_pops_ecx:
    pop ecx
hardware_iret:
    iretd
iret_end:
iret_again:                             # EIP, CS, EFLAGS
    push ecx
    jmp iret_ecx_saved

# In:       edx = the user's EIP, ecx = the user's ESP.
# The return address stays on the kernel's stack, which is left. Interrupts come on with the return.
BODY(SYSEXIT, native)
    sti                                 # its shadow reaches to the user's first instruction
    sysexit

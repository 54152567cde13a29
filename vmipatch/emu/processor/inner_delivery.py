# SPDX-License-Identifier: MIT
"""How does an event reach a kernel at CPL 0 without Python? Unicorn delivers it, on demand.

The code is an interrupt hook. Its user data, `_Control` of `deliveries`, is in rbx; CPUX86State in
rbp, by the names of `state`. It calls `x86_cpu_do_interrupt` where the result is what `events`
would make of the event; all else it passes on to Python:

* what a hook wants to see;
* debug exceptions, NMI, double faults, intercepts, and events without protected mode;
* a #GP where CR4.PCE is set, which may be one that only Unicorn raises (`performance`);
* gates that are not 32-bit interrupt or trap gates to ring 0, tables that wrap around 4 GiB, and
  frames that cross pages, of which Unicorn writes a part before it finds that the rest fails;
* an event that cannot be delivered (`deliveries`), and the one after which the machine has a look
  (`Deliveries.spend`).
"""

from __future__ import annotations

from typing import Final

from vmipatch.emu.processor.to_python import TO_PYTHON

INNER_DELIVERY: Final = (
    bytes.fromhex(
        # rdi = uc_struct, esi = number, rdx = _Control
        "837a4000"  # cmp dword ptr [rdx+64], 0         the same event, whose delivery failed?
        "750a"  # jne known
        "ff8ad4080000"  # dec dword ptr [rdx+2260]      has the machine to look?
        "7f02"  # jg known
        "ff22"  # jmp [rdx]                             the callback
        "53"  # known: push rbx
        "55"  # push rbp
        "57"  # push rdi
        "4154"  # push r12
        "4155"  # push r13
        "4889d3"  # mov rbx, rdx
        "488b6b08"  # mov rbp, [rbx+8]                  CPUX86State
        "837b4000"  # cmp dword ptr [rbx+64], 0         did a delivery fail?
        "0f85d6010000"  # jne again
        "81fe00010000"  # cmp esi, 0x100                an intercept?
        "0f83fa010000"  # jae python
        "0fa37360"  # bt [rbx+96], esi                  one that a hook wants?
        "0f82f0010000"  # jc python
        "83fe08"  # cmp esi, 8
        "770e"  # ja usual
        "b806010000"  # mov eax, 0x106                  debug, NMI and double fault
        "0fa3f0"  # bt eax, esi
        "0f82dd010000"  # jc python
        "83fe0d"  # usual: cmp esi, 13                  RDPMC of a process, wrongly?
        "750d"  # jne not_rdpmc
        "f685c901000001"  # test byte ptr [rbp+cr4+1], 1  PCE
        "0f85cb010000"  # jne python
        "f785b000000000408000"  # not_rdpmc: test dword ptr [rbp+hflags], 0x804000  SMAP, long mode
        "0f85bb010000"  # jne python
        "f685a801000001"  # test byte ptr [rbp+cr0], 1  PE
        "0f84ae010000"  # je python
        "8b8d50010000"  # mov ecx, [rbp+ldtr.base]      no table may wrap around
        "038d58010000"  # add ecx, [rbp+ldtr.limit]
        "0f829c010000"  # jc python
        "8b8d68010000"  # mov ecx, [rbp+tr.base]
        "038d70010000"  # add ecx, [rbp+tr.limit]
        "0f828a010000"  # jc python
        "8b8d80010000"  # mov ecx, [rbp+gdtr.base]
        "038d88010000"  # add ecx, [rbp+gdtr.limit]
        "0f8278010000"  # jc python
        "8b8d98010000"  # mov ecx, [rbp+idtr.base]
        "038da0010000"  # add ecx, [rbp+idtr.limit]
        "0f8266010000"  # jc python
        "8d04f507000000"  # lea eax, [rsi*8+7]
        "3b85a0010000"  # cmp eax, [rbp+idtr.limit]
        "0f8753010000"  # ja python
        "897344"  # mov [rbx+68], esi                   remember the event
        "8b8d0c150000"  # mov ecx, [rbp+is_software]
        "894b48"  # mov [rbx+72], ecx
        "8b8d08150000"  # mov ecx, [rbp+error_code]
        "894b4c"  # mov [rbx+76], ecx
        "8b8d78150000"  # mov ecx, [rbp+old_exception]
        "894b50"  # mov [rbx+80], ecx
        "488b8db8010000"  # mov rcx, [rbp+cr2]
        "48894b58"  # mov [rbx+88], rcx
        "c7434001000000"  # mov dword ptr [rbx+64], 1
        "4c8d60f9"  # lea r12, [rax-7]
        "4c03a598010000"  # add r12, [rbp+idtr.base]
        "498d742404"  # lea rsi, [r12+4]
        "e877000000"  # call load
        "25001e0000"  # and eax, 0x1e00
        "3d000e0000"  # cmp eax, 0xe00                  a 32-bit interrupt or trap gate?
        "0f85f4000000"  # jne other
        "4c89e6"  # mov rsi, r12
        "e85f000000"  # call load
        "c1e810"  # shr eax, 16
        "a804"  # test al, 4                            a handler in the LDT?
        "0f85e1000000"  # jne other
        "25f8ff0000"  # and eax, 0xfff8
        "8d4807"  # lea ecx, [rax+7]
        "3b8d88010000"  # cmp ecx, [rbp+gdtr.limit]
        "0f87cd000000"  # ja other
        "488bb580010000"  # mov rsi, [rbp+gdtr.base]
        "488d740604"  # lea rsi, [rsi+rax+4]
        "e82f000000"  # call load
        "a900640000"  # test eax, 0x6400                a ring other than 0, or the caller's?
        "0f85b1000000"  # jne other
        "f685b000000003"  # test byte ptr [rbp+hflags], 3  from another ring?
        "7531"  # jne outer
        "f785fc00000000004000"  # test dword ptr [rbp+ss.attributes], 0x400000  B
        "0f8498000000"  # je other
        "8b4520"  # mov eax, [rbp+esp]
        "0385f0000000"  # add eax, [rbp+ss.base]
        "eb26"  # jmp frame
        "4883ec08"  # load: sub rsp, 8
        "4889ef"  # mov rdi, rbp
        "ba02000000"  # mov edx, 2                      as the kernel, without SMAP
        "31c9"  # xor ecx, ecx
        "ff5318"  # call [rbx+24]                       cpu_ldl_mmuidx_ra(env, va, 2, 0)
        "4883c408"  # add rsp, 8
        "c3"  # ret
        "488bb568010000"  # outer: mov rsi, [rbp+tr.base]
        "4883c604"  # add rsi, 4                        ESP of ring 0
        "e8daffffff"  # call load
        "8d48ff"  # frame: lea ecx, [rax-1]
        "8d50dc"  # lea edx, [rax-36]                   the longest frame
        "31d1"  # xor ecx, edx
        "c1e90c"  # shr ecx, 12
        "755a"  # jne other                             crosses pages: all of it or nothing
        "488dbdb075ffff"  # lea rdi, [rbp-0x8a50]       CPUState
        "ff5310"  # call [rbx+16]                       x86_cpu_do_interrupt(cpu)
        "83a5b0000000f7"  # and dword ptr [rbp+hflags], ~8  the shadow of sti ends
        "c7850c15000000000000"  # mov dword ptr [rbp+is_software], 0
        "c7434000000000"  # mov dword ptr [rbx+64], 0
        "8b4344"  # mov eax, [rbx+68]
        "ff8483c0000000"  # inc dword ptr [rbx+rax*4+192]  count it
        "415d"  # pop r13
        "415c"  # pop r12
        "5f"  # pop rdi
        "5d"  # pop rbp
        "5b"  # pop rbx
        "c3"  # ret
    )
    + TO_PYTHON
    + bytes.fromhex(
        "415d"  # pop r13
        "415c"  # pop r12
        "5f"  # pop rdi
        "5d"  # pop rbp
        "5b"  # pop rbx
        "ff22"  # jmp [rdx]                             the callback
    )
)

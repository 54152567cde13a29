# SPDX-License-Identifier: MIT
"""How does an event reach a kernel at CPL 1 without Python? By code that does what `events` does.

Unicorn's own delivery knows nothing of a ring that has moved, so the code reads gate, descriptors
and stack itself, with the functions that Unicorn's helpers use for the guest's memory, and leaves
the CPU as the hypervisor's delivery does (`Ring1Delivery`, `VirtualCpu.enter`). It is an interrupt
hook: its user data, `_Control` of `deliveries`, is in rbx, CPUX86State in rbp, by the names of
`state`, and `OuterKernel` in r12.

Software interrupts of processes, page faults, and #NM are delivered. All else goes to Python:

* what a hook wants to see, and other exceptions: most of them are instructions to be emulated;
* software interrupts of the kernel, which are hypercalls, and events in the ROM or about it;
* whatever happens while TF is set, by the guest or by the hypervisor that steps;
* the exit after which the machine is to have a look (`OuterKernel.patience`);
* gates, descriptors and tables that a check refuses, that are in an LDT or not aligned, stacks of
  16 bits, and frames that cross pages;
* an event that cannot be delivered (`deliveries`).
"""

from __future__ import annotations

from typing import Final

from vmipatch.emu.processor.to_python import TO_PYTHON

OUTER_DELIVERY: Final = (
    bytes.fromhex(
        # rdi = uc_struct, esi = number, rdx = _Control
        "53"  # push rbx
        "55"  # push rbp
        "57"  # push rdi
        "4154"  # push r12
        "4155"  # push r13
        "4156"  # push r14
        "4157"  # push r15
        "4889d3"  # mov rbx, rdx
        "488b6b08"  # mov rbp, [rbx+8]                  CPUX86State
        "4c8b6328"  # mov r12, [rbx+40]                 _Cells
        "837b4000"  # cmp dword ptr [rbx+64], 0         did a delivery fail?
        "0f85fe040000"  # jne again
        "81fe00010000"  # cmp esi, 0x100                an intercept?
        "0f8322050000"  # jae python
        "0fa37360"  # bt [rbx+96], esi                  one that a hook wants?
        "0f8218050000"  # jc python
        "f7858800000000010300"  # test dword ptr [rbp+eflags], 0x30100  TF, RF, VM
        "0f8508050000"  # jne python
        "83bd7001000000"  # cmp dword ptr [rbp+tr.limit], 0  a task register of the guest?
        "0f85fb040000"  # jne python
        "49837c243801"  # cmp qword ptr [r12+56], 1     has the machine to look?
        "0f8eef040000"  # jle python
        "8b85b0000000"  # mov eax, [rbp+hflags]
        "83e003"  # and eax, 3
        "4531ff"  # xor r15d, r15d                      where to count it
        "83bd0c15000000"  # cmp dword ptr [rbp+is_software], 0
        "7411"  # je exception
        "83f803"  # cmp eax, 3                          in the kernel it is a hypercall
        "0f85d1040000"  # jne python
        "41bf00010000"  # mov r15d, 0x100
        "eb4e"  # jmp known
        "83fe07"  # exception: cmp esi, 7               no FPU
        "7409"  # je either
        "83fe0e"  # cmp esi, 14                         page fault
        "0f85bb040000"  # jne python
        "83f803"  # either: cmp eax, 3
        "743b"  # je known
        "83f801"  # cmp eax, 1
        "0f85ad040000"  # jne python
        "8b8d80000000"  # mov ecx, [rbp+eip]            of the ROM?
        "038dd8000000"  # add ecx, [rbp+cs.base]
        "412b4c2418"  # sub ecx, [r12+24]
        "413b4c2420"  # cmp ecx, [r12+32]
        "0f8291040000"  # jb python
        "8b8db8010000"  # mov ecx, [rbp+cr2]
        "412b4c2418"  # sub ecx, [r12+24]
        "413b4c2420"  # cmp ecx, [r12+32]
        "0f827b040000"  # jb python
        "8d04f507000000"  # known: lea eax, [rsi*8+7]
        "3b85a0010000"  # cmp eax, [rbp+idtr.limit]
        "0f8768040000"  # ja python
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
        "498b1424"  # mov rdx, [r12+0]                  the shared page
        "83fe0e"  # cmp esi, 14
        "7503"  # jne no_fault
        "894a0c"  # mov [rdx+0x0c], ecx                 CR2
        "bf03000000"  # no_fault: mov edi, 3            words of the frame: EIP, CS, EFLAGS
        "f685b000000002"  # test byte ptr [rbp+hflags], 2
        "740b"  # je inner
        "bf05000000"  # mov edi, 5                      and ESP, SS
        "c70200020000"  # mov dword ptr [rdx], 0x200    virtual IF: always on in a process
        "4585ff"  # inner: test r15d, r15d
        "7507"  # jne no_code
        "83fe0e"  # cmp esi, 14
        "7502"  # jne no_code
        "ffc7"  # inc edi                               and an error code
        "897b54"  # no_code: mov [rbx+84], edi
        "448bad98010000"  # mov r13d, [rbp+idtr.base]
        "458d6cf500"  # lea r13d, [r13+rsi*8]
        "41f7c503000000"  # test r13d, 3
        "0f85e1030000"  # jne other
        "4489ee"  # mov esi, r13d
        "e8bc000000"  # call load
        "4189c6"  # mov r14d, eax                       lower half of the gate
        "418d7504"  # lea esi, [r13+4]
        "e8b0000000"  # call load
        "4189c5"  # mov r13d, eax                       upper half
        "25009e0000"  # and eax, 0x9e00
        "3d008e0000"  # cmp eax, 0x8e00                 a 32-bit interrupt or trap gate, present?
        "0f85ba030000"  # jne other
        "4585ff"  # test r15d, r15d
        "7413"  # je may_pass
        "4489e8"  # mov eax, r13d
        "2500600000"  # and eax, 0x6000
        "3d00600000"  # cmp eax, 0x6000                 for processes?
        "0f85a2030000"  # jne other
        "4489f6"  # may_pass: mov esi, r14d
        "c1ee10"  # shr esi, 16
        "e890000000"  # call descriptor
        "0f8591030000"  # jne other
        "898388000000"  # mov [rbx+136], eax
        "89d0"  # mov eax, edx
        "2500dc0000"  # and eax, 0xdc00
        "3d00980000"  # cmp eax, 0x9800                 code of ring 0 or 1, present?
        "0f8579030000"  # jne other
        "81ca00200000"  # or edx, 0x2000                DPL 1
        "89938c000000"  # mov [rbx+140], edx
        "4889ef"  # mov rdi, rbp
        "ff5338"  # call [rbx+56]                       helper_read_eflags(env)
        "25ffcdffff"  # and eax, 0xffffcdff             neither IF nor IOPL
        "410b442430"  # or eax, [r12+48]
        "498b1424"  # mov rdx, [r12+0]
        "8b0a"  # mov ecx, [rdx]
        "81e100020000"  # and ecx, 0x200                virtual IF
        "09c8"  # or eax, ecx
        "89839c000000"  # mov [rbx+156], eax
        "f685b000000002"  # test byte ptr [rbp+hflags], 2
        "0f85fa000000"  # jne from_process
        "8b85fc000000"  # mov eax, [rbp+ss.attributes]
        "a900004000"  # test eax, 0x400000              B
        "0f842b030000"  # je other
        "8b7520"  # mov esi, [rbp+esp]
        "8b85f0000000"  # mov eax, [rbp+ss.base]
        "e97c010000"  # jmp frame
        "4883ec08"  # load: sub rsp, 8                  of the aligned word at esi
        "4889ef"  # mov rdi, rbp
        "ba02000000"  # mov edx, 2                      as the kernel, without SMAP
        "31c9"  # xor ecx, ecx
        "ff5318"  # call [rbx+24]                       cpu_ldl_mmuidx_ra(env, va, 2, 0)
        "4883c408"  # add rsp, 8
        "c3"  # ret
        "4883ec08"  # descriptor: sub rsp, 8      edx:eax = that of selector esi; ZF: it exists
        "f7c604000000"  # test esi, 4
        "754f"  # jne none
        "81e6f8ff0000"  # and esi, 0xfff8
        "7447"  # je none
        "8d4607"  # lea eax, [rsi+7]
        "3b8588010000"  # cmp eax, [rbp+gdtr.limit]
        "773c"  # ja none
        "03b580010000"  # add esi, [rbp+gdtr.base]
        "f7c603000000"  # test esi, 3
        "752e"  # jne none
        "89b380000000"  # mov [rbx+128], esi
        "e8b2ffffff"  # call load
        "898384000000"  # mov [rbx+132], eax
        "8bb380000000"  # mov esi, [rbx+128]
        "83c604"  # add esi, 4
        "e89effffff"  # call load
        "89c2"  # mov edx, eax
        "8b8384000000"  # mov eax, [rbx+132]
        "4883c408"  # add rsp, 8
        "39c0"  # cmp eax, eax
        "c3"  # ret
        "4883c408"  # none: add rsp, 8                  not 0
        "c3"  # ret
        "4883ec08"  # store: sub rsp, 8                 edx to the next word of the frame
        "8bb3a4000000"  # mov esi, [rbx+164]
        "8383a400000004"  # add dword ptr [rbx+164], 4
        "4889ef"  # mov rdi, rbp
        "b902000000"  # mov ecx, 2
        "4531c0"  # xor r8d, r8d
        "ff5330"  # call [rbx+48]                       cpu_stl_mmuidx_ra(env, va, value, 2, 0)
        "4883c408"  # add rsp, 8
        "c3"  # ret
        "8937"  # segment: mov [rdi], esi               *rdi = selector esi, descriptor edx:eax
        "895714"  # mov [rdi+20], edx
        "89c1"  # mov ecx, eax
        "c1e910"  # shr ecx, 16
        "0fb6f2"  # movzx esi, dl
        "c1e610"  # shl esi, 16
        "09f1"  # or ecx, esi
        "89d6"  # mov esi, edx
        "81e6000000ff"  # and esi, 0xff000000
        "09f1"  # or ecx, esi
        "48894f08"  # mov [rdi+8], rcx                  base
        "0fb7c0"  # movzx eax, ax
        "89d1"  # mov ecx, edx
        "81e100000f00"  # and ecx, 0xf0000
        "09c8"  # or eax, ecx
        "f7c200008000"  # test edx, 0x800000            G
        "7408"  # je bytes
        "c1e00c"  # shl eax, 12
        "0dff0f0000"  # or eax, 0xfff
        "894710"  # bytes: mov [rdi+16], eax            limit
        "c3"  # ret
        "41837c24100b"  # from_process: cmp dword ptr [r12+16], 11
        "0f8236020000"  # jb other
        "418b742408"  # mov esi, [r12+8]
        "83c604"  # add esi, 4
        "f7c603000000"  # test esi, 3
        "0f8522020000"  # jne other
        "e800ffffff"  # call load
        "8983a0000000"  # mov [rbx+160], eax
        "418b742408"  # mov esi, [r12+8]
        "83c608"  # add esi, 8
        "e8edfeffff"  # call load
        "0fb7f0"  # movzx esi, ax
        "f7c602000000"  # test esi, 2
        "0f85fb010000"  # jne other
        "89f0"  # mov eax, esi
        "25fcff0000"  # and eax, 0xfffc
        "83c801"  # or eax, 1
        "898390000000"  # mov [rbx+144], eax
        "e8dffeffff"  # call descriptor
        "0f85e0010000"  # jne other
        "898394000000"  # mov [rbx+148], eax
        "89d1"  # mov ecx, edx
        "81e100da4000"  # and ecx, 0x40da00
        "81f900924000"  # cmp ecx, 0x409200        writable data of ring 0 or 1, present, 32 bits?
        "0f85c6010000"  # jne other
        "81ca00200000"  # or edx, 0x2000
        "899398000000"  # mov [rbx+152], edx
        "c1e810"  # shr eax, 16                         its base
        "0fb6ca"  # movzx ecx, dl
        "c1e110"  # shl ecx, 16
        "09c8"  # or eax, ecx
        "81e2000000ff"  # and edx, 0xff000000
        "09d0"  # or eax, edx
        "8bb3a0000000"  # mov esi, [rbx+160]
        "8b4b54"  # frame: mov ecx, [rbx+84]            with ESP esi in a segment at eax
        "c1e102"  # shl ecx, 2
        "29ce"  # sub esi, ecx
        "89b3a0000000"  # mov [rbx+160], esi            the new ESP
        "01f0"  # add eax, esi
        "8983a4000000"  # mov [rbx+164], eax
        "8d4c08ff"  # lea ecx, [rax+rcx-1]
        "31c1"  # xor ecx, eax
        "c1e90c"  # shr ecx, 12
        "0f857c010000"  # jne other                     crosses pages: all of it or nothing
        "8b4354"  # mov eax, [rbx+84]
        "a901000000"  # test eax, 1                     4 or 6 words?
        "750b"  # jne no_error
        "8b9508150000"  # mov edx, [rbp+error_code]
        "e8c0feffff"  # call store
        "8b9580000000"  # no_error: mov edx, [rbp+eip]
        "e8b5feffff"  # call store
        "8b95d0000000"  # mov edx, [rbp+cs]
        "e8aafeffff"  # call store
        "8b939c000000"  # mov edx, [rbx+156]
        "e89ffeffff"  # call store
        "837b5405"  # cmp dword ptr [rbx+84], 5
        "7231"  # jb same_stack
        "8b5520"  # mov edx, [rbp+esp]
        "e891feffff"  # call store
        "8b95e8000000"  # mov edx, [rbp+ss]
        "e886feffff"  # call store
        "8bb390000000"  # mov esi, [rbx+144]
        "8b8394000000"  # mov eax, [rbx+148]
        "8b9398000000"  # mov edx, [rbx+152]
        "488dbde8000000"  # lea rdi, [rbp+ss]
        "e88cfeffff"  # call segment
        "8b83a0000000"  # same_stack: mov eax, [rbx+160]
        "894520"  # mov [rbp+esp], eax
        "4489f6"  # mov esi, r14d
        "c1ee10"  # shr esi, 16
        "81e6fcff0000"  # and esi, 0xfffc
        "83ce01"  # or esi, 1
        "8b8388000000"  # mov eax, [rbx+136]
        "8b938c000000"  # mov edx, [rbx+140]
        "488dbdd0000000"  # lea rdi, [rbp+cs]
        "e85cfeffff"  # call segment
        "8b85b0000000"  # mov eax, [rbp+hflags]
        "2584ffdfff"  # and eax, 0xffdfff84             CPL, shadow, CS32, SS32, ADDSEG, GUEST
        "83c821"  # or eax, 0x21                        CPL 1, SS32
        "410b442428"  # or eax, [r12+40]
        "f7838c00000000004000"  # test dword ptr [rbx+140], 0x400000  D
        "741b"  # je adds
        "83c810"  # or eax, 0x10                        CS32
        "8b8dc0000000"  # mov ecx, [rbp+es.base]
        "0b8df0000000"  # or ecx, [rbp+ss.base]
        "0b8d08010000"  # or ecx, [rbp+ds.base]
        "7504"  # jne adds
        "a880"  # test al, 0x80                         PE
        "7503"  # jne derived
        "83c840"  # adds: or eax, 0x40                  ADDSEG
        "8985b0000000"  # derived: mov [rbp+hflags], eax
        "8b8588000000"  # mov eax, [rbp+eflags]
        "25ff8efcff"  # and eax, 0xfffc8eff             neither TF, IOPL, NT, RF nor VM
        "0d00020000"  # or eax, 0x200
        "898588000000"  # mov [rbp+eflags], eax
        "410fb7c6"  # movzx eax, r14w
        "4489e9"  # mov ecx, r13d
        "81e10000ffff"  # and ecx, 0xffff0000
        "09c8"  # or eax, ecx
        "898580000000"  # mov [rbp+eip], eax
        "41f7c500010000"  # test r13d, 0x100            a trap gate?
        "750a"  # jne unmasked
        "498b1424"  # mov rdx, [r12+0]
        "c70200000000"  # mov dword ptr [rdx], 0        virtual IF
        "c78578150000ffffffff"  # unmasked: mov dword ptr [rbp+old_exception], 0xffffffff
        "c7850c15000000000000"  # mov dword ptr [rbp+is_software], 0
        "c7434000000000"  # mov dword ptr [rbx+64], 0
        "49ff4c2438"  # dec qword ptr [r12+56]
        "44037b44"  # add r15d, [rbx+68]
        "42ff84bbc0000000"  # inc dword ptr [rbx+r15*4+192]
        "415f"  # pop r15
        "415e"  # pop r14
        "415d"  # pop r13
        "415c"  # pop r12
        "5f"  # pop rdi
        "5d"  # pop rbp
        "5b"  # pop rbx
        "c3"  # ret
    )
    + TO_PYTHON
    + bytes.fromhex(
        "415f"  # pop r15
        "415e"  # pop r14
        "415d"  # pop r13
        "415c"  # pop r12
        "5f"  # pop rdi
        "5d"  # pop rbp
        "5b"  # pop rbx
        "ff22"  # jmp [rdx]                             the callback
    )
)

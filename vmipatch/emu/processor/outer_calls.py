# SPDX-License-Identifier: MIT
"""Which hypercalls are answered without Python? Those that forget translations of addresses.

A kernel loads CR3 or forgets a page tens of thousands of times in a boot. The code here stands
before `outer_delivery` in the interrupt hook of a kernel at CPL 1, and answers its calls SetCR3,
InvalPage and FlushTLB as `hypercalls` does, with the functions that Unicorn's own helpers call.
What it does not answer is as it was for `outer_delivery`, which comes next:

* everything else, and the three calls where a hook wants to see them;
* all calls while the kernel has no ROM, or an interrupt waits for it (`OuterKernel.answers`);
* whatever happens while TF is set, or a delivery has failed;
* the exit after which the machine is to have a look (`OuterKernel.patience`).

Python's own cache of translations (`tlb`) is told by `OuterKernel.is_stale`.

The digests are of the official x86-64 build (manylinux wheel). Decision: docs/decisions/0034.
"""

from __future__ import annotations

from typing import Final

from vmipatch.emu.processor.library import LibraryPlace

LOAD_CR3: Final = "cpu_x86_update_cr3_x86_64"
FORGET_PAGE: Final = "tlb_flush_page_x86_64"
_FORGET: Final = "tlb_flush_by_mmuidx_x86_64"
PLACES: Final = (
    LibraryPlace(
        LOAD_CR3,
        36,
        "64d668009933e46ec7114ce8bb345b94c1dbff4fa23437749768058cbcf91a06",
    ),
    # All of it, and one page.
    LibraryPlace(
        _FORGET,
        1696,
        "a30c01a1fb2f451ef9cb0fc2798eca387d956538181f294cfc3d72346a4a1de4",
        off=-0x1720,
    ),
    # With tlb_flush and tlb_flush_page.
    LibraryPlace(
        _FORGET,
        122,
        "5ddf9bce07e71a7a158a48153326c7fa5d4cb6b9b5f13c52b4d6f37ba3ce9cc1",
    ),
    # Blocks are found by linear address there.
    LibraryPlace(
        "tb_flush_jmp_cache_x86_64",
        150,
        "3e615edc597dcffc3b54f01ada5af8bb638a7c35d305a629ab9a2f10f554ce83",
    ),
)
"""Code that is called."""

OUTER_CALLS: Final = bytes.fromhex(
    # rdi = uc_struct, esi = number, rdx = _Control
    "81fee3000000"  # cmp esi, 0xe3                     a hypercall with a number?
    "0f85bf000000"  # jne other
    "837a4000"  # cmp dword ptr [rdx+64], 0             did a delivery fail?
    "0f85b5000000"  # jne other
    "0fa37260"  # bt [rdx+96], esi                      one that a hook wants?
    "0f82ab000000"  # jc other
    "488b4208"  # mov rax, [rdx+8]                      CPUX86State
    "83b80c15000000"  # cmp dword ptr [rax+0x150c], 0   is_software
    "0f849a000000"  # je other
    "f7808800000000010300"  # test dword ptr [rax+0x88], 0x30100  EFLAGS: TF, RF, VM
    "0f858a000000"  # jne other
    "8b88b0000000"  # mov ecx, [rax+0xb0]               hflags
    "83e103"  # and ecx, 3
    "83f901"  # cmp ecx, 1                              of the kernel?
    "757c"  # jne other
    "488b4a28"  # mov rcx, [rdx+40]                     OuterKernel
    "83794000"  # cmp dword ptr [rcx+64], 0             is it to be answered here?
    "7472"  # je other
    "4883793801"  # cmp qword ptr [rcx+56], 1           has the machine to look?
    "7e6b"  # jle other
    "448b4018"  # mov r8d, [rax+0x18]                   EBX
    "4183f811"  # cmp r8d, 17                           SetCR3
    "7414"  # je set_cr3
    "4183f82e"  # cmp r8d, 46                           InvalPage
    "7423"  # je inval_page
    "4183f82f"  # cmp r8d, 47                           FlushTLB
    "7555"  # jne other
    "8bb0c0010000"  # mov esi, [rax+0x1c0]              CR3
    "eb09"  # jmp load_cr3
    "8b30"  # set_cr3: mov esi, [rax]                   EAX
    "4c8b01"  # mov r8, [rcx]
    "41897010"  # mov [r8+0x10], esi                    the shared page's CR3
    "4889c7"  # load_cr3: mov rdi, rax
    "4c8b82c0080000"  # mov r8, [rdx+2240]              cpu_x86_update_cr3(env, value)
    "eb10"  # jmp answer
    "8b30"  # inval_page: mov esi, [rax]                EAX
    "488db8b075ffff"  # lea rdi, [rax-0x8a50]           CPUState
    "4c8b82c8080000"  # mov r8, [rdx+2248]              tlb_flush_page(cpu, va)
    "c78078150000ffffffff"  # answer: mov dword ptr [rax+0x1578], 0xffffffff  old_exception
    "c7800c15000000000000"  # mov dword ptr [rax+0x150c], 0  is_software
    "c7414801000000"  # mov dword ptr [rcx+72], 1       what Python knows of addresses is stale
    "48ff4938"  # dec qword ptr [rcx+56]                one exit less
    "ff82d0080000"  # inc dword ptr [rdx+2256]          count it
    "41ffe0"  # jmp r8
)

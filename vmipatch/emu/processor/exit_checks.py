# SPDX-License-Identifier: MIT
"""After which loads and stores need Unicorn 2.1.4 look whether a stop was asked for?

It looks after each: translated code calls a helper there, and has to keep all registers of the
guest in memory for it. But inside of a block a stop can be asked for in two ways alone, and what is
left of the checks is where they are:

* A helper that the block calls: ports, `cpuid` and `rdtsc` call us, others touch the guest's memory
  and may fail, a hook of ours on an instruction (`Cpu.watch`) is called like a helper. After the
  first in a block, but for a few that do neither (_HARMLESS), each load and store is followed by
  the check, as ever.
* A load or store itself, where no memory is or where it is read-only. Those never take the fast
  path of the software TLB, and the functions of the slow one look before they return.

The hook at the beginning of a block comes before the block's own check, which stays; exceptions,
undefined instructions and promised interrupts are dealt with between blocks. So each stop comes
where it came.

How it is done: Unicorn has a flag for the translator of ARM, `no_exit_request` in uc_struct, which
`check_exit_request` obeys on all. It is set where a block of x86 begins (`i386_tr_tb_start`, which
is empty), if a byte of padding of the instance says so, and cleared when the call of such a helper
is generated (`tcg_gen_callN`). The operations that are left out are counted all the same: a block
ends when there are 4,000, and must end where it did. The slow path is reached through two tables of
pointers, `qemu_ld_helpers` and `qemu_st_helpers`.

What remains unlike Unicorn's own: a block whose machine code took more than 64 KiB with the checks
would be cut in two there. Decision: docs/decisions/0023.
"""

from __future__ import annotations

import ctypes
from typing import Final

from vmipatch.emu.processor.library import Changes, Detour, Edit, LibraryPlace, Pointer

_INSTANCE_OFF: Final = 0x7F4
"""In uc_struct (include/uc_priv.h): four bytes between `init_done` and `jmp_bufs`."""
_BLOCK_BEGINS_OFF: Final = 0xB60
"""i386_tr_tb_start, a local function after do_vmexit."""
_HARMLESS: Final = (
    "helper_cc_compute_all_x86_64", "helper_cc_compute_c_x86_64",
    "helper_read_eflags_x86_64", "helper_write_eflags_x86_64",
    "helper_cli_x86_64", "helper_sti_x86_64",
    "helper_divb_AL_x86_64", "helper_divw_AX_x86_64", "helper_divl_EAX_x86_64",
    "helper_idivb_AL_x86_64", "helper_idivw_AX_x86_64", "helper_idivl_EAX_x86_64",
    "helper_lookup_tb_ptr_x86_64",
)  # fmt: skip
"""The frequent ones of the helpers that call no hook and touch no memory of the guest
(qemu/target/i386/{cc,int}_helper.c, qemu/accel/tcg/tcg-runtime.c)."""
_ANCHOR: Final = "check_exit_request_x86_64"
_LOADS_OFF: Final = 0x1026540
"""From _ANCHOR to the pointers for loads: little-endian by size, big-endian 64 bytes later."""
_STORES_OFF: Final = 0x10264C0
_LOADS: Final = (
    (0, "helper_ret_ldub_mmu_x86_64"), (8, "helper_le_lduw_mmu_x86_64"),
    (16, "helper_le_ldul_mmu_x86_64"), (24, "helper_le_ldq_mmu_x86_64"),
    (72, "helper_be_lduw_mmu_x86_64"), (80, "helper_be_ldul_mmu_x86_64"),
    (88, "helper_be_ldq_mmu_x86_64"),
)  # fmt: skip
_STORES: Final = (
    (0, "helper_ret_stb_mmu_x86_64"), (8, "helper_le_stw_mmu_x86_64"),
    (16, "helper_le_stl_mmu_x86_64"), (24, "helper_le_stq_mmu_x86_64"),
    (72, "helper_be_stw_mmu_x86_64"), (80, "helper_be_stl_mmu_x86_64"),
    (88, "helper_be_stq_mmu_x86_64"),
)  # fmt: skip

_NOTE_CALL: Final = bytes.fromhex(
    # rdi = TCGContext, rsi = function whose call is generated; rax, r9 to r11 are free
    "488b8770990000"  # mov rax, [rdi+0x9970]        uc_struct
    "80b8f207000000"  # cmp byte [rax+0x7f2], 0      no_exit_request
    "7423"  # je done
    "4c8d1531000000"  # lea r10, [rip+0x31]          _HARMLESS
    "4c8d1d92000000"  # lea r11, [rip+0x92]          their end
    "493b32"  # next: cmp rsi, [r10]
    "7410"  # je done
    "4983c208"  # add r10, 8
    "4d39da"  # cmp r10, r11
    "72f2"  # jb next
    "c680f207000000"  # mov byte [rax+0x7f2], 0
    "4157"  # done: push r15               as in tcg_gen_callN
    "4989d7"  # mov r15, rdx
    "ff2502000000"  # jmp [rip+2]
)


def _checking(keep_return: str) -> bytes:
    """Code for a pointer to a function of the slow path.

    `keep_return` saves the argument that tells the place in translated code, in rbp.
    """
    return bytes.fromhex(
        # rdi = CPUX86State
        "53"  # push rbx
        "55"  # push rbp
        "4883ec08"  # sub rsp, 8
        "4889fb"  # mov rbx, rdi
        + keep_return
        + "ff1526000000"  # call [rip+0x26]              the function
        "837bf000"  # cmp dword [rbx-16], 0        icount_decr: does the CPU have to stop?
        "7807"  # js stop
        "4883c408"  # back: add rsp, 8
        "5d"  # pop rbp
        "5b"  # pop rbx
        "c3"  # ret
        "488bbb58f7ffff"  # stop: mov rdi, [rbx-0x8a8]     uc_struct
        "80bff407000000"  # cmp byte [rdi+0x7f4], 0
        "74e9"  # je back
        "31f6"  # xor esi, esi
        "55"  # push rbp                     helper_check_exit_request(uc, 0), which
        "ff2508000000"  # jmp [rip+8]                  leaves the block, as if called there
    )


_AFTER_LOAD: Final = _checking("4889cd")  # mov rbp, rcx
_AFTER_STORE: Final = _checking("4c89c5")  # mov rbp, r8
_BEGIN_BLOCK: Final = bytes.fromhex(
    # rsi = CPUState
    "488b86a8810000"  # mov rax, [rsi+0x81a8]        uc_struct
    "8a88f4070000"  # mov cl, [rax+0x7f4]
    "8888f2070000"  # mov [rax+0x7f2], cl
    "c3"  # ret
)

EXIT_CHECKS: Final = Changes(
    places=(
        LibraryPlace(
            "check_exit_request_x86_64",
            161,
            "510a8886a941b35cb265269d3dc980b90afcff99a8f91907a45128ae3f8ba4cd",
        ),
        # With i386_tr_tb_start.
        LibraryPlace(
            "do_vmexit_x86_64",
            2928,
            "f4a1d2b853c6081c3d417fa4012e601c76d9f3cbea0f97ce75afd251f14c8f11",
        ),
        # Counts operations.
        LibraryPlace(
            "tcg_emit_op_x86_64",
            185,
            "8052c2eb5881e7b77bdfc3b22e4cacdae7f2d8d6e0914815ab3930f8a97e5157",
        ),
        LibraryPlace(
            "tcg_gen_callN_x86_64",
            315,
            "cf0202be06f25488740ae9863d28dd4d089a25f2bb90a4ce4a85728ba377911f",
        ),
        # Restores EIP by the address that it returns to.
        LibraryPlace(
            "helper_check_exit_request_x86_64",
            120,
            "f33b501f686d26670b5a79eddb71a8518bade6825f7d4fc8fcf27061303a5e5a",
        ),
        # The hook at the beginning of a block, its check, tb_start, instructions, in this order.
        LibraryPlace(
            "translator_loop_x86_64",
            1982,
            "94441176b21ec0d2578698ffaf2fd61adf6304bdc5fc2e1cbe363e3f0d314ab5",
        ),
    ),
    edits=(
        Edit(
            "check_exit_request_x86_64",
            0x10,
            bytes.fromhex("c30f1f8000000000"),  # ret, if no_exit_request; padding
            bytes.fromhex("83473803c3909090"),  # add dword [rdi+0x38], 3: nb_ops; ret
        ),
    ),
    pointers=tuple(
        Pointer(
            _ANCHOR,
            table_off + off,
            function,
            code,
            ((function, 0), ("helper_check_exit_request_x86_64", 0)),
        )
        for table_off, table, code in (
            (_LOADS_OFF, _LOADS, _AFTER_LOAD),
            (_STORES_OFF, _STORES, _AFTER_STORE),
        )
        for off, function in table
    ),
    detours=(
        Detour(
            "tcg_gen_callN_x86_64",
            0,
            bytes.fromhex("41574989d7"),  # push r15; mov r15, rdx
            _NOTE_CALL,
            (("tcg_gen_callN_x86_64", 5), *((name, 0) for name in _HARMLESS)),
        ),
        Detour(
            "do_vmexit_x86_64",
            _BLOCK_BEGINS_OFF,
            bytes.fromhex("c366662e0f1f840000000000"),  # ret; padding
            _BEGIN_BLOCK,
            (),
        ),
    ),
)


def leave_out(handle: int) -> None:
    """Let the Unicorn instance at `handle`, of a library with EXIT_CHECKS, do without them."""
    ctypes.c_uint8.from_address(handle + _INSTANCE_OFF).value = 1

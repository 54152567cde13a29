# SPDX-License-Identifier: MIT
"""Why are stores of Unicorn 2.1.4 slow, and what makes them fast?

Translated code must be dropped when the guest writes to what it was made from. Entries of the
software TLB therefore carry TLB_NOTDIRTY, which sends each store through `notdirty_write`. Unicorn
takes the mark away only from pages that cannot be executed, and an i386 guest without NX has none:
every store is slow for ever. QEMU takes it away from every page without translated code, and sets
it again when code of the page is translated. The two changes here are that rule:

* `notdirty_write` looks the page up among those with translated code, as
  `tb_invalidate_phys_page_fast` does, and takes the mark away if the page has no such code.
* `tlb_protect_code`, which Unicorn calls when a page gets its first translated code, and where it
  does nothing, sets the mark in each entry of the page, whatever its virtual address.

A guest sees no difference. (Where NX keeps pages from execution, plain Unicorn forgets code that is
written through such a page at the first store alone, and executes stale code after the next; with
the changes it does not. The CPU model of `cpu` has no NX.)

The digests are of the official x86-64 build (manylinux wheel). Decision: docs/decisions/0022.
"""

from __future__ import annotations

from typing import Final

from vmipatch.emu.processor.library import Changes, Detour, LibraryPlace

_RESET_DIRTY_OFF: Final = 0x30
_AFTER_INVALIDATION_OFF: Final = 0x26D
"""In notdirty_write, a local function after tlb_set_dirty: where it decides about the mark."""
_KEEP_OFF: Final = 0x274
_TAKE_AWAY_OFF: Final = 0x2F0
"""If no hook for memory covers the address."""

_FIND_PAGE: Final = bytes.fromhex(
    # rbp = TLB entry, r9 = memory region, r15 = CPUState; rax, rcx, rdx, rsi, rdi are free
    "41f6818800000004"  # test byte [r9+0x88], 4     may the region be executed?
    "0f8480000000"  # jz plain
    "498bbfa8810000"  # mov rdi, [r15+0x81a8]      uc_struct
    "488b742410"  # mov rsi, [rsp+16]          the address in RAM
    "48c1ee0c"  # shr rsi, 12
    "4889f2"  # mov rdx, rsi
    "8b87f0020000"  # mov eax, [rdi+0x2f0]       v_l1_size of the table of pages
    "8b8ff4020000"  # mov ecx, [rdi+0x2f4]       v_l1_shift
    "83e801"  # sub eax, 1
    "48d3ea"  # shr rdx, cl
    "4898"  # cdqe
    "4821d0"  # and rax, rdx
    "488b97e0020000"  # mov rdx, [rdi+0x2e0]       l1_map
    "488d14c2"  # lea rdx, [rdx+rax*8]
    "8b87f8020000"  # mov eax, [rdi+0x2f8]       v_l2_levels
    "85c0"  # test eax, eax
    "7e22"  # jle last
    "8d0480"  # lea eax, [rax+rax*4]
    "8d0c00"  # lea ecx, [rax+rax]         10 bits a level
    "488b12"  # level: mov rdx, [rdx]
    "4885d2"  # test rdx, rdx
    "743a"  # jz take_away
    "4889f0"  # mov rax, rsi
    "48d3e8"  # shr rax, cl
    "25ff030000"  # and eax, 0x3ff
    "488d14c2"  # lea rdx, [rdx+rax*8]
    "83e90a"  # sub ecx, 10
    "75e4"  # jnz level
    "488b12"  # last: mov rdx, [rdx]
    "4885d2"  # test rdx, rdx
    "741e"  # jz take_away
    "81e6ff030000"  # and esi, 0x3ff
    "488d0476"  # lea rax, [rsi+rsi*2]       PageDesc has 24 bytes
    "48833cc200"  # cmp qword [rdx+rax*8], 0   first_tb
    "740d"  # jz take_away
    "ff2512000000"  # keep: jmp [rip+0x12]
    "48837d10ff"  # plain: cmp qword [rbp+16], -1  as before: addr_code
    "75f3"  # jne keep
    "ff250d000000"  # take_away: jmp [rip+13]
)
_SET_MARKS: Final = bytes.fromhex(
    # rdi = uc_struct, rsi = address in RAM of the page
    "53"  # push rbx
    "4889fb"  # mov rbx, rdi
    "4889f2"  # mov rdx, rsi
    "31f6"  # xor esi, esi
    "ff1519000000"  # call [rip+25]              qemu_map_ram_ptr(uc, NULL, page)
    "488bbbb8010000"  # mov rdi, [rbx+0x1b8]       CPUState
    "4889c6"  # mov rsi, rax
    "ba00100000"  # mov edx, 0x1000
    "5b"  # pop rbx
    "ff250b000000"  # jmp [rip+11]               tlb_reset_dirty(cpu, host page, 0x1000)
)

STORES: Final = Changes(
    places=(
        # Says "no" and is left out: what tlb_protect_code did until now.
        LibraryPlace(
            "cpu_physical_memory_test_and_clear_dirty_x86_64",
            3,
            "251447ee91a9067dcd6ab96703133f617565974cd6c4819021760c4688c91abf",
        ),
        LibraryPlace(
            "qemu_map_ram_ptr_x86_64",
            147,
            "377cc0cd0af90e3af59f9c630e7290f2b27a946eae2c1742ddfd7acf05e8d25d",
        ),
        # With tlb_reset_dirty, which skips entries that are marked already.
        LibraryPlace(
            "tlb_protect_code_x86_64",
            589,
            "fb0e766090e6b5ae02e44f8dcd20d15a417d1f0b6ac691aed959e0f810ba0da9",
        ),
        # With notdirty_write.
        LibraryPlace(
            "tlb_set_dirty_x86_64",
            1368,
            "1dfc4f2274c8a85370719fe65771e1c3d07a899ae4e2c870269b431f4e4ae5b7",
        ),
        # Each new entry of RAM is marked.
        LibraryPlace(
            "tlb_set_page_with_attrs_x86_64",
            2072,
            "38801e0391fdbd1fb0367ee3bcf804e8f36b4f2a932067a237f2bcd0c049bd5f",
        ),
        # Calls tlb_protect_code after it has noted a page's first translated code.
        LibraryPlace(
            "tb_gen_code_x86_64",
            2799,
            "534c1f89984e03632482cbffddef4e7501192eb058ac60788e9e7676670335c5",
        ),
        # Reads the table of pages as _FIND_PAGE does.
        LibraryPlace(
            "tb_invalidate_phys_page_fast_x86_64",
            432,
            "2821d55acbaaf802cacfb847379019212fc2d22d3dc08ae4ed169fbe6e13b114",
        ),
    ),
    detours=(
        Detour(
            "tlb_protect_code_x86_64",
            0,
            bytes.fromhex("4889f7ba01000000"),  # mov rdi, rsi; mov edx, 1
            _SET_MARKS,
            (("qemu_map_ram_ptr_x86_64", 0), ("tlb_protect_code_x86_64", _RESET_DIRTY_OFF)),
        ),
        Detour(
            "tlb_set_dirty_x86_64",
            _AFTER_INVALIDATION_OFF,
            bytes.fromhex("48837d10ff747c"),  # cmp qword [rbp+16], -1; je take_away
            _FIND_PAGE,
            (
                ("tlb_set_dirty_x86_64", _KEEP_OFF),
                ("tlb_set_dirty_x86_64", _TAKE_AWAY_OFF),
            ),
        ),
    ),
)

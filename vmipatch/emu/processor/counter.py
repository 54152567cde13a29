# SPDX-License-Identifier: MIT
"""How is executed code counted without Python? By a few bytes of machine code that Unicorn calls.

At the beginning of each block the code subtracts the block's length from a cell of the host's, and
asks Unicorn to stop once the cell is used up. What is left goes into a second place too, the LEFT
of the time page (vmipatch.vmi.shared.Time), where the guest can read it. That copy decides nothing:
Unicorn's page walker sets bits in whatever the guest calls a page table, read-only or not.

It mends a register, too. `cmpxchg8b` takes CC_SRC for the arithmetic flags when they were there at
the beginning of the block, though it may hold an operand of a later instruction (QEMU did so up to
7.2). Those 32 bits would be EFLAGS for the next `pushf`, NT and TF included: cmpxchg8b is the last
of its block in what compilers make of it, and the next block begins with arithmetic flags alone.

And it ends the shadow of `sti` after `pause`. An instruction in that shadow is a block of its own,
which ends it; `pause` leaves its block another way, and nothing could come before a `cli` that
follows. Where two blocks one after the other begin in the shadow, the second is not in it: an
interrupt that waits then comes before it.

It ends RF, too, with which the block was translated: a branch out of the block does not.

A kernel can be made to take longer than its bytes (`BlockCounter.drag`), by a fraction of a byte in
each block: the original kernel is compared in such machines with one whose sites are padded.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import sys
from typing import Final

from vmipatch.emu.processor.state import INTERRUPT_REQUEST, STATE_OFF, StateField
from vmipatch.errors import EnvironmentProblem

_CODE = bytes.fromhex(
    "4c8b4930"  # mov r9, [rcx+48]                  CC_SRC
    "418161f0fffffeff"  # and dword ptr [r9-16], 0xfffeffff  EFLAGS: RF
    "4183791001"  # cmp dword ptr [r9+16], 1        CC_OP: are the arithmetic flags in CC_SRC?
    "7507"  # jne lazy
    "498121d5080000"  # and qword ptr [r9], 0x8d5   they alone
    "41f6411808"  # lazy: test byte ptr [r9+24], 8  hflags: in the shadow of sti?
    "7552"  # jne shadow
    "488b01"  # lit: mov rax, [rcx]                 the cell; rdi = instance, edx = block length
    "4c8b00"  # mov r8, [rax]
    "4d85c0"  # test r8, r8
    "7e75"  # jle stop                              before it: a block longer than a slice must run
    "4c8b5120"  # mov r10, [rcx+32]
    "41f60203"  # test byte ptr [r10], 3            the CPL, if it is to be guarded
    "746b"  # jz stop
    "41f742d800000200"  # test dword ptr [r10-40], 0x20000  EFLAGS.VM, likewise
    "7561"  # jnz stop
    "89d2"  # mov edx, edx
    "81fa00100000"  # cmp edx, 0x1000
    "7605"  # jbe known
    "badc050000"  # mov edx, 1500                   Unicorn may not know the length
    "41f6411803"  # known: test byte ptr [r9+24], 3
    "750b"  # jnz process
    "448b5140"  # mov r10d, [rcx+64]                what the kernel's blocks take longer
    "44015144"  # add [rcx+68], r10d
    "83d200"  # adc edx, 0
    "4929d0"  # process: sub r8, rdx
    "4c8900"  # mov [rax], r8
    "488b4128"  # mov rax, [rcx+40]                 the guest's copy
    "4c8900"  # mov [rax], r8
    "48ff4118"  # inc qword ptr [rcx+24]            blocks
    "c3"  # ret
    "488b4118"  # shadow: mov rax, [rcx+24]
    "483b4138"  # cmp rax, [rcx+56]                 was the block before in it, too?
    "488d4001"  # lea rax, [rax+1]
    "48894138"  # mov [rcx+56], rax
    "759c"  # jne lit
    "41836118f7"  # and dword ptr [r9+24], -9       then it is over
    "41f7813475ffff00010000"  # test dword ptr [r9-0x8acc], 0x100  an interrupt promised?
    "748a"  # jz lit
    "41f741f000020000"  # test dword ptr [r9-16], 0x200  IF?
    "7480"  # jz lit
    "48c7411001000000"  # stop: mov qword ptr [rcx+16], 1
    "ff6108"  # jmp [rcx+8]                         uc_emu_stop(rdi)
)

_EFLAGS_BEFORE_LEN: Final = StateField.HFLAGS - StateField.EFLAGS
assert (_EFLAGS_BEFORE_LEN, StateField.CC_OP - StateField.CC_SRC) == (40, 16), "as in the code"
_FROM_CC_SRC: Final = (
    StateField.HFLAGS - StateField.CC_SRC,
    StateField.EFLAGS - StateField.CC_SRC,
    INTERRUPT_REQUEST - STATE_OFF - StateField.CC_SRC,
)
assert _FROM_CC_SRC == (24, -16, -0x8ACC), "as in the code"
_NO_BLOCK: Final = (1 << 64) - 1
_UNGUARDED_LEN: Final = _EFLAGS_BEFORE_LEN // 4 + 1
"""Words of what the code looks at while nothing is forbidden: CPL 3, and no flag."""


class _Control(ctypes.Structure):
    """The code's user data; the guest never sees it."""

    _fields_ = (
        ("cell_va", ctypes.c_uint64),
        ("stop_va", ctypes.c_uint64),
        ("stopped", ctypes.c_uint64),
        ("blocks", ctypes.c_uint64),
        ("privilege_va", ctypes.c_uint64),
        ("copy_va", ctypes.c_uint64),
        ("flags_va", ctypes.c_uint64),
        ("shadowed", ctypes.c_uint64),
        ("drag", ctypes.c_uint32),
        ("dragged", ctypes.c_uint32),
    )


def executable(code: bytes) -> mmap.mmap:
    """A page that begins with `code`. Raises EnvironmentProblem where the host forbids that."""
    try:
        access = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=access)
    except OSError as error:
        raise EnvironmentProblem(
            f"the system refuses memory for generated code: {error.strerror}",
            hint="Unicorn needs such memory too: allow it for this process",
        ) from error
    page[: len(code)] = code
    return page


class BlockCounter:
    """The code and its control structure; `code_va` and `control_va` go into a block hook."""

    def __init__(
        self, cell_va: int, stop_va: int, state_va: int, copy_va: int | None = None
    ) -> None:
        """`cell_va`: host address of an i64 that no guest can reach; `stop_va`: host address of
        uc_emu_stop; `state_va`: of the CPU's state; `copy_va`: of another i64, the guest's copy of
        the first.

        Raises EnvironmentProblem on another kind of host, or one that forbids generated code.
        """
        if platform.machine() not in ("x86_64", "AMD64") or sys.maxsize < 1 << 32:
            raise EnvironmentProblem(
                f"the emulator needs an x86-64 host, this is {platform.machine()}",
                hint="boot the kernel in QEMU instead",
            )
        self._page = executable(_CODE)
        self.code_va = ctypes.addressof(ctypes.c_char.from_buffer(self._page))
        self._no_state = (ctypes.c_uint32 * _UNGUARDED_LEN)(*[3] * _UNGUARDED_LEN)
        self._unguarded_va = ctypes.addressof(self._no_state) + _EFLAGS_BEFORE_LEN
        self._hflags_va = state_va + StateField.HFLAGS
        self._control = _Control(
            cell_va, stop_va, 0, 0, self._unguarded_va, copy_va or cell_va,
            state_va + StateField.CC_SRC, _NO_BLOCK,
        )  # fmt: skip
        self.control_va = ctypes.addressof(self._control)

    def forbid_ring0(self, forbidden: bool) -> None:
        """Let no block begin at CPL 0 or in virtual 8086 mode, or let it."""
        self._control.privilege_va = self._hflags_va if forbidden else self._unguarded_va

    def drag(self, thousandths: int) -> None:
        """Let each block at CPL 0 count for that share of a byte more than it has."""
        self._control.drag = thousandths * (1 << 32) // 1000

    def arm(self) -> None:
        """Forget that the code stopped the CPU."""
        self._control.stopped = 0

    @property
    def stopped(self) -> bool:
        """Whether the code has asked for a stop since it was armed."""
        return bool(self._control.stopped)

    @property
    def blocks(self) -> int:
        """How many blocks have been executed."""
        return int(self._control.blocks)

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
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import sys
from typing import Final

from vmipatch.emu.state import Field
from vmipatch.errors import EnvironmentProblem

_CODE = bytes.fromhex(
    "4c8b4930"  # mov r9, [rcx+48]         CC_SRC
    "4183791001"  # cmp dword [r9+16], 1     CC_OP: are the arithmetic flags in CC_SRC?
    "7507"  # jne lazy
    "498121d5080000"  # and qword [r9], 0x8d5    they alone
    "488b01"  # lazy: mov rax, [rcx]     the cell; rdi = instance, edx = block length
    "4c8b00"  # mov r8, [rax]
    "4d85c0"  # test r8, r8
    "7e35"  # jle stop                   before subtracting: a block longer than a slice must run
    "4c8b4920"  # mov r9, [rcx+32]
    "41f60103"  # test byte [r9], 3         the CPL, if it is to be guarded
    "742b"  # jz stop
    "41f741d800000200"  # test dword [r9-40], 0x20000  EFLAGS.VM, likewise
    "7521"  # jnz stop
    "89d2"  # mov edx, edx
    "81fa00100000"  # cmp edx, 0x1000
    "7605"  # jbe known
    "badc050000"  # mov edx, 1500        Unicorn does not always know the length of a block
    "4929d0"  # known: sub r8, rdx
    "4c8900"  # mov [rax], r8
    "488b4128"  # mov rax, [rcx+40]        the guest's copy
    "4c8900"  # mov [rax], r8
    "48ff4118"  # inc qword [rcx+24]     blocks
    "c3"  # ret
    "48c7411001000000"  # stop: mov qword [rcx+16], 1
    "ff6108"  # jmp [rcx+8]              uc_emu_stop(rdi)
)

_EFLAGS_BEFORE_LEN: Final = Field.HFLAGS - Field.EFLAGS
assert (_EFLAGS_BEFORE_LEN, Field.CC_OP - Field.CC_SRC) == (40, 16), "as in the code"
_UNGUARDED_LEN: Final = _EFLAGS_BEFORE_LEN // 4 + 1
"""Words of what the code looks at while nothing is forbidden: CPL 3, and no flag."""


class _Control(ctypes.Structure):
    """What the code gets as its user data; the guest never sees it."""

    _fields_ = (
        ("cell_va", ctypes.c_uint64),
        ("stop_va", ctypes.c_uint64),
        ("stopped", ctypes.c_uint64),
        ("blocks", ctypes.c_uint64),
        ("privilege_va", ctypes.c_uint64),
        ("copy_va", ctypes.c_uint64),
        ("flags_va", ctypes.c_uint64),
    )


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
        try:
            access = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
            self._page = mmap.mmap(-1, mmap.PAGESIZE, prot=access)
        except OSError as error:
            raise EnvironmentProblem(
                f"the system refuses memory for generated code: {error.strerror}",
                hint="Unicorn needs such memory too: allow it for this process",
            ) from error
        self._page[: len(_CODE)] = _CODE
        self.code_va = ctypes.addressof(ctypes.c_char.from_buffer(self._page))
        self._no_state = (ctypes.c_uint32 * _UNGUARDED_LEN)(*[3] * _UNGUARDED_LEN)
        unguarded_va = ctypes.addressof(self._no_state) + _EFLAGS_BEFORE_LEN
        self._hflags_va = state_va + Field.HFLAGS
        self._control = _Control(
            cell_va, stop_va, 0, 0, unguarded_va, copy_va or cell_va, state_va + Field.CC_SRC
        )
        self.control_va = ctypes.addressof(self._control)

    def forbid_ring0(self) -> None:
        """Let no block begin at CPL 0 or in virtual 8086 mode."""
        self._control.privilege_va = self._hflags_va

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

# SPDX-License-Identifier: MIT
"""How is a load or store of some bytes seen before it is made? By a hook of all, in machine code.

Unicorn's hooks of memory get physical addresses, and a stop that is asked for in one comes after
the store, which is then made again. The code here looks at the place in the page, which is the same
in both kinds of address; Python then says whether it is the linear address that is meant, and the
code leaves the CPU as Unicorn does for a fault: before the access, EIP at the instruction.

With the hook each load and store takes the slow way. It is there from the first watch on.

The digest is of the official x86-64 build (manylinux wheel). Decision: docs/decisions/0055.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from vmipatch.emu.processor.counter import executable
from vmipatch.emu.processor.library import FindSymbol, LibraryPlace
from vmipatch.emu.processor.memory import PAGE_LEN

LEAVE: Final = "cpu_loop_exit_noexc_x86_64"
PLACES: Final = (
    LibraryPlace(
        LEAVE,
        19,
        "28be3c9a63879a40c47ee38b6f8a932374b7be89ad8d8a601367b26a64580957",
    ),
)
"""Code that is called."""
MOST: Final = 4
"""Places that can be watched at once."""
_CODE: Final = bytes.fromhex(
    # r9 = _Control, esi = 16 for a load, 17 for a store, rdx = physical address, ecx = length
    "41833900"  # cmp dword ptr [r9], 0           is anything watched?
    "7435"  # je out
    "89d0"  # mov eax, edx
    "25ff0f0000"  # and eax, 0xfff                its place in the page
    "448d0408"  # lea r8d, [rax+rcx]              its end
    "4d8d5120"  # lea r10, [r9+32]
    "41bb04000000"  # mov r11d, 4
    "89f7"  # mov edi, esi
    "83e701"  # and edi, 1                        0: a load, 1: a store
    "413b4204"  # each: cmp eax, [r10+4]          after the end of what is watched?
    "730c"  # jae no
    "453b02"  # cmp r8d, [r10]                    before it?
    "7607"  # jbe no
    "410fa37a08"  # bt dword ptr [r10+8], edi
    "720a"  # jc found
    "4983c20c"  # no: add r10, 12
    "41ffcb"  # dec r11d
    "75e5"  # jnz each
    "c3"  # out: ret
    "4151"  # found: push r9
    "89c6"  # mov esi, eax
    "89ca"  # mov edx, ecx
    "41ff5108"  # call [r9+8]                     Python: is it the address, too?
    "4159"  # pop r9
    "85c0"  # test eax, eax
    "74ef"  # je out
    "4883ec08"  # sub rsp, 8
    "498b7910"  # mov rdi, [r9+16]                CPUState
    "41ff5118"  # call [r9+24]                    cpu_loop_exit_noexc(cpu), which does not return
    "cc"  # int3
)
_Asked = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int)


class _Watch(ctypes.Structure):
    _fields_ = (
        ("start", ctypes.c_uint32),
        ("end", ctypes.c_uint32),
        ("kinds", ctypes.c_uint32),
    )


class _Control(ctypes.Structure):
    """The user data of the code."""

    _fields_ = (
        ("is_on", ctypes.c_uint32),
        # Words of 64 bits are aligned on 4 bytes where the host has 32, and this is imported there.
        ("filler", ctypes.c_uint32),
        ("asked_va", ctypes.c_uint64),
        ("cpu_va", ctypes.c_uint64),
        ("leave_va", ctypes.c_uint64),
        ("watches", _Watch * MOST),
    )


_FOUND = (_Control.is_on, _Control.asked_va, _Control.cpu_va, _Control.leave_va, _Control.watches)
assert tuple(f.offset for f in _FOUND) == (0, 8, 16, 24, 32), "as in the code"


@dataclass(frozen=True, slots=True)
class DataWatch:
    """Bytes of one page."""

    va: int
    length: int
    loads: bool
    stores: bool


class DataWatches:
    """The code and its control structure; `code_va` and `control_va` go into hooks of memory."""

    def __init__(
        self,
        cpu_va: int,
        find: FindSymbol,
        is_hit: Callable[[bool], bool],
        fail: Callable[[BaseException], None],
    ) -> None:
        """`cpu_va`: host address of the CPUState; `is_hit`: whether the instruction at EIP is about
        to make a store (True) or load (False) that is watched; `fail` gets what it raises.
        """
        self._is_hit = is_hit
        self._fail = fail
        self._asked = _Asked(self._ask)
        self._page = executable(_CODE)
        self.code_va = ctypes.addressof(ctypes.c_char.from_buffer(self._page))
        asked_va = ctypes.cast(self._asked, ctypes.c_void_p).value or 0
        self._control = _Control(0, 0, asked_va, cpu_va, find(LEAVE) or 0)
        self.control_va = ctypes.addressof(self._control)

    def switch(self, is_on: bool) -> None:
        """Look at loads and stores, or let them pass."""
        self._control.is_on = is_on

    def watch(self, watches: Sequence[DataWatch]) -> None:
        """Look for these from now on."""
        for place in range(MOST):
            self._control.watches[place] = _Watch(0, 0, 0)
        for place, watch in enumerate(watches):
            start = watch.va % PAGE_LEN
            self._control.watches[place] = _Watch(
                start, start + watch.length, watch.loads | watch.stores << 1
            )

    def _ask(self, kind: int, _off: int, _length: int) -> int:
        try:
            return self._is_hit(bool(kind))
        except BaseException as error:
            self._fail(error)
            return 0

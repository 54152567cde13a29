# SPDX-License-Identifier: MIT
"""How does an exception reach its handler without Python? By machine code in the interrupt hook.

Unicorn delivers external interrupts and leaves everything else to a callback. The callback here is
code that delivers what is ordinary, counts it, and passes on to Python what is not:
`inner_delivery` for a kernel at CPL 0, `outer_delivery` for one at CPL 1, after `outer_calls`. The
result is that of `events` in any case.

**An event that cannot be delivered** makes Unicorn leave the code by an exception, which comes to
this callback while `delivering` is set: the CPU is put back to where it was and Python gets the
first event, as if nothing had been tried. Pages that were read are marked as accessed, as they
would be then too.

The digests are of the official x86-64 build (manylinux wheel).
Decisions: docs/decisions/0029, 0038.
"""

from __future__ import annotations

import ctypes
from typing import Final

from vmipatch.emu.processor.counter import executable
from vmipatch.emu.processor.inner_delivery import INNER_DELIVERY
from vmipatch.emu.processor.library import FindSymbol, LibraryPlace
from vmipatch.emu.processor.outer_calls import FORGET_PAGE, LOAD_CR3, OUTER_CALLS
from vmipatch.emu.processor.outer_calls import PLACES as CALL_PLACES
from vmipatch.emu.processor.outer_delivery import OUTER_DELIVERY
from vmipatch.emu.processor.outer_kernel import OuterKernel
from vmipatch.emu.processor.state import StateField

_DELIVER, _LOAD = "x86_cpu_do_interrupt_x86_64", "cpu_ldl_mmuidx_ra_x86_64"
_STORE, _FLAGS = "cpu_stl_mmuidx_ra_x86_64", "helper_read_eflags_x86_64"
_CALLED: Final = (_DELIVER, _LOAD, _STORE, _FLAGS, LOAD_CR3, FORGET_PAGE)
PLACES: Final = (
    # With do_interrupt_all, a local function before it.
    LibraryPlace(
        _DELIVER,
        9121,
        "1457961db4529f683e2ee176b71f9709d00e75676006454c1c67c822006b12f4",
        off=-0x2350,
    ),
    LibraryPlace(
        _LOAD,
        48,
        "d7cd8ad23521b1affced6b6e3a44db93f0ef6abe630ddc6d701274c8cc7e2a42",
    ),
    LibraryPlace(
        _STORE,
        2641,
        "3e80bbef6e931b34efd9952535af18e424b21ad47fa89fa252a6d43c995b36ce",
    ),
    LibraryPlace(
        _FLAGS,
        58,
        "6af2f7187f51283113eca33e580222a6b89d6497ed29c368e1de959222b792d4",
    ),
    LibraryPlace(
        "cpu_cc_compute_all_x86_64",
        37,
        "c4a399beec24fee953844b3fda4ee1ab1a3cb855a2297292ac895d39c7c4c7aa",
    ),
    LibraryPlace(
        "helper_cc_compute_all_x86_64",
        3467,
        "e4bbdf56867679307b60511a10cd6ed0a23b98a74775afefe0913cf9c2da0eec",
    ),
    # Calls the hooks: where an exception comes back to, and with which record of it.
    LibraryPlace(
        "cpu_exec_x86_64",
        336,
        "beb441a3b4c2d539c733cccc5c9a0d7ffef4d6cd6e607ea84ac6eaaec2fe32f2",
    ),
    *CALL_PLACES,
)
"""Code whose behaviour is relied on."""

VECTORS: Final = 256
PATIENCE: Final = 10_000
"""Events of a kernel at CPL 0 after which the machine must have a look."""
ALL_VECTORS: Final = bytes([0xFF] * (VECTORS // 8))
"""A bit for each vector, as `Deliveries.switch` takes them."""
_OFFSETS = (
    StateField.REGS,
    StateField.EIP,
    StateField.EFLAGS,
    StateField.HFLAGS,
    StateField.SEGMENTS,
    StateField.LDT,
    StateField.TR,
    StateField.GDT,
    StateField.IDT,
    StateField.CR,
)
assert _OFFSETS == (0, 0x80, 0x88, 0xB0, 0xB8, 0x148, 0x160, 0x178, 0x190, 0x1A8), "as in the code"
_RECORD = (StateField.ERROR_CODE, StateField.IS_SOFTWARE, StateField.OLD_EXCEPTION)
assert _RECORD == (0x1508, 0x150C, 0x1578), "as in the code"


class _Control(ctypes.Structure):
    """The user data of the code."""

    _fields_ = (
        ("callback_va", ctypes.c_uint64),
        ("state_va", ctypes.c_uint64),
        ("deliver_va", ctypes.c_uint64),
        ("load_va", ctypes.c_uint64),
        ("entry_va", ctypes.c_uint64),
        ("outer_va", ctypes.c_uint64),
        ("store_va", ctypes.c_uint64),
        ("flags_va", ctypes.c_uint64),
        ("delivering", ctypes.c_uint32),
        ("vector", ctypes.c_uint32),
        ("is_software", ctypes.c_uint32),
        ("error_code", ctypes.c_uint32),
        ("old_exception", ctypes.c_uint32),
        ("words", ctypes.c_uint32),
        ("cr2", ctypes.c_uint64),
        ("wanted", ctypes.c_uint8 * (VECTORS // 8)),
        ("scratch", ctypes.c_uint32 * 16),
        ("counts", ctypes.c_uint32 * (2 * VECTORS)),
        ("load_cr3_va", ctypes.c_uint64),
        ("forget_page_va", ctypes.c_uint64),
        ("answered", ctypes.c_uint32),
        ("patience", ctypes.c_int32),
    )


_FOUND = (_Control.outer_va, _Control.delivering, _Control.cr2, _Control.wanted, _Control.counts)
assert tuple(f.offset for f in _FOUND) == (40, 64, 88, 96, 192), "as in the code"
_CALLS = (_Control.load_cr3_va, _Control.forget_page_va, _Control.answered, _Control.patience)
assert tuple(f.offset for f in _CALLS) == (2240, 2248, 2256, 2260), "as in the code"
_ENTER: Final = bytes.fromhex("ff6220")  # jmp [rdx+32]
_ALIGNMENT: Final = 16


class Deliveries:
    """The code and its control structure; `code_va` and `control_va` go into an interrupt hook."""

    def __init__(self, callback_va: int, state_va: int, find: FindSymbol) -> None:
        """`callback_va`: host address of the callback for everything else; `state_va`: of the CPU's
        state.

        Raises EnvironmentProblem on a host that forbids generated code.
        """
        pieces, offsets = bytearray(), []
        for piece in (_ENTER, INNER_DELIVERY, OUTER_CALLS + OUTER_DELIVERY):
            pieces += bytes(-len(pieces) % _ALIGNMENT)
            offsets.append(len(pieces))
            pieces += piece
        self._page = executable(bytes(pieces))
        page_va = ctypes.addressof(ctypes.c_char.from_buffer(self._page))
        self.code_va, self._inner_va, self._outer_va = (page_va + off for off in offsets)
        functions = [find(name) for name in _CALLED]
        self._is_possible = None not in functions
        deliver_va, load_va, store_va, flags_va, load_cr3_va, forget_page_va = (
            va or 0 for va in functions
        )
        self._control = _Control(
            callback_va, state_va, deliver_va, load_va, callback_va, 0, store_va, flags_va,
            load_cr3_va=load_cr3_va, forget_page_va=forget_page_va,
        )  # fmt: skip
        self._wanted = b""
        self.control_va = ctypes.addressof(self._control)

    def switch(self, is_on: bool, outer: OuterKernel | None, wanted: bytes) -> None:
        """Deliver without Python from now on, or with it.

        `outer`: the kernel, if its ring is 1; `wanted`: a bit for each vector that Python delivers.
        """
        control = self._control
        if wanted is not self._wanted:
            ctypes.memmove(control.wanted, wanted, VECTORS // 8)
            self._wanted = wanted
        if not is_on or not self._is_possible:
            control.entry_va = control.callback_va
        elif outer is None:
            control.entry_va = self._inner_va
        else:
            control.outer_va = outer.va
            control.entry_va = self._outer_va

    def begin(self) -> None:
        """The CPU is about to run: nothing is being delivered, and no event was."""
        self._control.delivering = 0
        self._control.patience = PATIENCE

    def spend(self) -> bool:
        """Python has got an event of a kernel at CPL 0: whether the machine must have a look.

        A handler that faults before its first instruction executes nothing: no slice would end.
        """
        control = self._control
        if control.entry_va != self._inner_va:
            control.patience -= 1
        return self.is_spent

    @property
    def is_spent(self) -> bool:
        """Whether there were so many events since `begin` that it must."""
        return bool(self._control.patience <= 0)

    def take_back(self, words: memoryview) -> int | None:
        """Put the CPU, whose state `words` are, back before an event whose delivery Unicorn broke
        off with an error; returns its vector, or None if nothing was being delivered.
        """
        control = self._control
        if not control.delivering:
            return None
        control.delivering = 0
        words[StateField.IS_SOFTWARE >> 2] = control.is_software
        words[StateField.ERROR_CODE >> 2] = control.error_code
        words[StateField.OLD_EXCEPTION >> 2] = control.old_exception
        words[(StateField.CR >> 2) + 4] = control.cr2
        return int(control.vector)

    def taken(self) -> dict[tuple[int, bool], int]:
        """How often an event was delivered since the last call.

        By its vector and whether it was a software interrupt; for a kernel at CPL 0 the latter is
        always False.
        """
        counts = self._control.counts
        found = {index: count for index, count in enumerate(counts) if count}
        for index in found:
            counts[index] = 0
        return {(index % VECTORS, index >= VECTORS): count for index, count in found.items()}

    def answered(self) -> int:
        """How many hypercalls were answered since the last call."""
        count, self._control.answered = self._control.answered, 0
        return int(count)

# SPDX-License-Identifier: MIT
"""Which facts of a kernel at CPL 1 does code in the interrupt hook need? Ten words of 64 bits."""

from __future__ import annotations

import ctypes
from typing import Final

_COUNT: Final = 10


class _Cell:
    """A word of 64 bits at a fixed place."""

    __slots__ = ("_index",)

    def __init__(self, index: int) -> None:
        self._index = index

    def __get__(self, owner: OuterKernel, owner_type: type | None = None) -> int:
        return owner.cells[self._index]

    def __set__(self, owner: OuterKernel, value: int) -> None:
        owner.cells[self._index] = value


class OuterKernel:
    """A deprivileged kernel, as far as the delivery of its events goes."""

    __slots__ = ("cells", "va")

    page_va = _Cell(0)
    """Host address of the shared page (vmipatch.vmi.shared.Shared)."""
    task_base = _Cell(1)
    """Linear address of the TSS that the guest has loaded."""
    task_limit = _Cell(2)
    rom_va = _Cell(3)
    """Linear address of the ROM."""
    rom_len = _Cell(4)
    """0 before it has a linear address."""
    entered = _Cell(5)
    """Bits of `HFlag` that are set in the kernel."""
    iopl = _Cell(6)
    """Virtual IOPL, as in EFLAGS."""
    patience = _Cell(7)
    """Exits until the machine must have a look."""
    answers = _Cell(8)
    """Whether its calls that forget addresses are answered by `outer_calls`."""
    is_stale = _Cell(9)
    """Whether it has made such a call since `CachingMmu` has looked."""

    def __init__(self) -> None:
        words = (ctypes.c_int64 * _COUNT)()
        self.va = ctypes.addressof(words)
        """Host address of the words."""
        self.cells = memoryview(words).cast("B").cast("q")

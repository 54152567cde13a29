# SPDX-License-Identifier: MIT
"""Where did this linear address lead a moment ago? A translation cache for the hypervisor.

It forgets when the guest's CPU does: each write of CR0, CR3 or CR4 and each INVLPG is emulated, and
ends in `forget`, or is a call that `outer_calls` answers and leaves a note of. Between them a stale
translation is what any CPU may use.
"""

from __future__ import annotations

from vmipatch.emu.processor.memory import GuestMemory
from vmipatch.emu.processor.outer_kernel import OuterKernel
from vmipatch.emu.processor.paging import Mmu
from vmipatch.emu.processor.registers import MASK32, RegisterFile

_PAGE_BITS = 12
_OFFSET = (1 << _PAGE_BITS) - 1


class CachingMmu(Mmu):
    """An Mmu that walks the page tables once per page."""

    def __init__(self, memory: GuestMemory, registers: RegisterFile, outer: OuterKernel) -> None:
        super().__init__(memory, registers)
        self._outer = outer
        self.memory = memory
        self._readable: dict[int, int] = {}
        self._writable: dict[int, int] = {}

    def translate(self, va: int, *, write: bool = False) -> int:
        """The physical address that `va` maps to, accessed and dirty bits set. Raises PageFault."""
        if self._outer.is_stale:
            self.forget()
        page = (va & MASK32) >> _PAGE_BITS
        known = self._writable if write else self._readable
        page_pa = known.get(page)
        if page_pa is None:
            page_pa = known[page] = super().translate(va, write=write) & ~_OFFSET
        return page_pa | va & _OFFSET

    def forget(self) -> None:
        """Forget all translations."""
        self._outer.is_stale = 0
        self._readable.clear()
        self._writable.clear()

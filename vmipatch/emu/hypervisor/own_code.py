# SPDX-License-Identifier: MIT
"""Which code of the guest means what the hardware does, as the ROM does?

The rewriter's thunks read and write real flags. Call SET_RUNTIME says where they are: the kernel's
in the section that was added to it, a module's anywhere outside of the kernel. A module may be
unloaded without a word, so its range counts only while it holds the bytes that were announced.
"""

from __future__ import annotations

from typing import Final

from vmipatch.emu.processor.paging import PageFault
from vmipatch.emu.processor.tlb import CachingMmu
from vmipatch.image.elf import ElfImage

ADDED_SECTION: Final = ".vmi.text"
MOST_LEN: Final = 1 << 16
"""Bytes of one range, where nothing else limits it."""
MOST_RANGES: Final = 1 << 10
"""Ranges of modules that are remembered; the oldest make room."""


class OwnCode:
    """The ranges that the guest announced."""

    def __init__(self, kernel: ElfImage) -> None:
        section = kernel.section_by_name.get(ADDED_SECTION)
        self._allowed = None if section is None else range(section.va, section.end_va)
        loads = list(kernel.loads)
        self._kernel = range(
            min((s.va for s in loads), default=0),
            max((s.va + s.mem_len for s in loads), default=0),
        )
        self._own = range(0)
        self._modules: dict[range, bytes] = {}

    def forget(self) -> None:
        """The guest has left its ROM."""
        self._own, self._modules = range(0), {}

    def announce(self, wanted: range, mmu: CachingMmu) -> bool:
        """Take note of `wanted`; False if it may not be exempt. Raises PageFault."""
        allowed, kernel = self._allowed, self._kernel
        if allowed is not None and _inside(wanted, allowed):
            self._own = wanted
            return True
        if len(wanted) > MOST_LEN:
            return False
        if wanted.start < kernel.stop and wanted.stop > kernel.start:
            if allowed is None:
                self._own = wanted
            return allowed is None
        content = mmu.read(wanted.start, len(wanted))
        self._modules.pop(wanted, None)
        if len(self._modules) >= MOST_RANGES:
            del self._modules[next(iter(self._modules))]
        self._modules[wanted] = content
        return True

    def holds(self, va: int, mmu: CachingMmu) -> bool:
        """Whether the instruction at `va` belongs to the code that was announced."""
        if va in self._own:
            return True
        found = next((r for r in self._modules if va in r), None)
        if found is None:
            return False
        try:
            if mmu.read(found.start, len(found)) == self._modules[found]:
                return True
        except PageFault:
            pass
        del self._modules[found]
        return False


def _inside(inner: range, outer: range) -> bool:
    return outer.start <= inner.start and inner.stop <= outer.stop

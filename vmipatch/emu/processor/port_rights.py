# SPDX-License-Identifier: MIT
"""May a process touch a port? The bitmap of its TSS says, which Unicorn does not look at.

Source: Intel SDM volume 1, 19.5.2 (I/O permission bit map).
"""

from __future__ import annotations

from typing import Final

from vmipatch.emu.processor.paging import Mmu, PageFault
from vmipatch.emu.processor.segment import SegmentState

_MAP_OFF: Final = 0x66
"""Where a TSS tells the offset of its bitmap."""


def may_use_port(task: SegmentState, mmu: Mmu, port: int, size: int) -> bool:
    """Whether the bitmap of `task` allows the ports [port, port + size)."""
    if task.limit < _MAP_OFF + 1:
        return False
    try:
        place = int.from_bytes(mmu.read(task.base + _MAP_OFF, 2), "little") + (port >> 3)
        if place + 1 > task.limit:
            return False
        bits = int.from_bytes(mmu.read(task.base + place, 2), "little")
    except PageFault:
        return False
    return not bits >> (port & 7) & ((1 << size) - 1)

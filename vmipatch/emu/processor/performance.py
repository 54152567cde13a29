# SPDX-License-Identifier: MIT
"""Which exception does `rdpmc` raise in a process? Unicorn 2.1.4 reads CR4.PCE the wrong way round.

Source: Intel SDM volume 2, RDPMC: #GP(0) at CPL 3 if CR4.PCE is clear. If it is set, or at CPL 0,
the emulated CPU has no counters, as QEMU's has none, and the instruction is undefined.
"""

from __future__ import annotations

from typing import Final

from vmipatch.emu.processor.bits import Cr4
from vmipatch.emu.processor.events import Cause, Event, Vector
from vmipatch.emu.processor.paging import Mmu
from vmipatch.emu.processor.registers import RegisterFile

_RDPMC: Final = b"\x0f\x33"
_PREFIXES: Final = b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf2\xf3"
_MAX_LEN: Final = 15
_USER_RING: Final = 3


def corrected(event: Event, registers: RegisterFile, mmu: Mmu) -> Event:
    """The event that a CPU raises where Unicorn raises `event`."""
    if event.vector not in (Vector.UNDEFINED, Vector.PROTECTION) or registers.cpl != _USER_RING:
        return event
    if event.cause is not Cause.EXCEPTION or event.error:
        return event
    code = mmu.peek(registers.code_va, _MAX_LEN).lstrip(_PREFIXES)
    if not code.startswith(_RDPMC):
        return event
    allowed = registers.cr4 & Cr4.PCE
    return Event.exception(Vector.UNDEFINED if allowed else Vector.PROTECTION)

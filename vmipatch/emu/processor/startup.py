# SPDX-License-Identifier: MIT
"""How does a processor begin after STARTUP? In real mode, at the page that the message names.

Source: Intel SDM volume 3, 8.4.4.2 and table 9-1 (state after INIT).
"""

from __future__ import annotations

from typing import Final

from vmipatch.emu.processor.bits import Flag, HFlag
from vmipatch.emu.processor.cpuid import SIGNATURE
from vmipatch.emu.processor.registers import RegisterFile
from vmipatch.emu.processor.segment import SegmentState, SegReg

_LIMIT: Final = 0xFFFF
_CODE, _DATA = 0x9B00, 0x9300
_LDT, _AVAILABLE_TSS = 0x8200, 0x8900
"""Unicorn ends the process at a stack switch through a task register of another type."""
_CR0_ET: Final = 0x10
_GENERAL_COUNT: Final = 8


def start_up(registers: RegisterFile, page: int) -> None:
    """Set the registers of the processor that is in the engine, between two runs.

    `page`: the vector of the message; execution begins at the physical address `page << 12`.
    """
    for number in range(_GENERAL_COUNT):
        registers.set_gpr(number, 0)
    registers.edx = SIGNATURE
    registers.cr4 = 0
    registers.cr0 = _CR0_ET
    registers.cr3 = registers.cr2 = 0
    registers.gdtr = registers.idtr = (0, _LIMIT)
    registers.ldtr = SegmentState(0, 0, _LIMIT, _LDT)
    registers.tr = SegmentState(0, 0, _LIMIT, _AVAILABLE_TSS)
    registers.set_segment(SegReg.CS, SegmentState(page << 8, page << 12, _LIMIT, _CODE))
    for which in (SegReg.SS, SegReg.DS, SegReg.ES, SegReg.FS, SegReg.GS):
        registers.set_segment(which, SegmentState(0, 0, _LIMIT, _DATA))
    registers.hflags &= ~int(HFlag.PE | HFlag.INHIBIT_IRQ)
    registers.unblock_nmi()
    registers.cpl = 0
    registers.refresh()
    registers.eflags = Flag.FIXED
    registers.eip = 0

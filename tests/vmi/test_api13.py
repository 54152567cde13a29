# SPDX-License-Identifier: MIT
"""Are numbers and rows of API 13 those of the March 2006 patches?"""

from __future__ import annotations

from vmipatch.vmi.api13 import DIFFERENT, LAST_OF_13_0, ROWS_13, SAME, Call13
from vmipatch.vmi.table import ROW_OF

FIRST = 4
PATCHES = """
Init CPUID WRMSR RDMSR SetGDT SetLDT SetIDT SetTR GetGDT GetLDT GetIDT GetTR WriteGDTEntry
WriteLDTEntry WriteIDTEntry UpdateKernelStack SetCR0 SetCR2 SetCR3 SetCR4 GetCR0 GetCR2 GetCR3
GetCR4 INVD WBINVD SetDR GetDR RDPMC RDTSC CLTS EnableInterrupts DisableInterrupts
GetInterruptMask SetInterruptMask IRET SYSEXIT Pause Halt Reboot Shutdown SetPxE GetPxE SwapPxE
SetPxELong GetPxELong SwapPxELongAtomic TestAndSetPxEBit TestAndClearPxEBit AllocatePage
ReleasePage InvalPage FlushTLB FlushDeferredCalls SetLinearMapping IN INB INW INS INSB INSW OUT
OUTB OUTW OUTS OUTSB OUTSW SetIOPLMask DeactivatePxELongAtomic TestAndSetPxELongBit
TestAndClearPxELongBit SetInitialAPState APICWrite APICRead IODelay GetCycleFrequency
GetCycleCounter SetAlarm CancelAlarm GetWallclockTime WallclockUpdated
"""
"""vmiCalls.h, in its order, after four reserved numbers."""
APPENDED = ["GetRelocationInfo", "SetPxE", "SetPxELong"]
"""Those of 13.3 follow."""
OURS = {"IN": "INL", "INS": "INSL", "OUT": "OUTL", "OUTS": "OUTSL"}
"""Names that API 3.0 spells otherwise."""


def test_numbers_are_in_the_order_of_the_patches() -> None:
    expected = [OURS.get(name, name) for name in (*PATCHES.split(), *APPENDED)]
    assert [row.name.removesuffix(" of 13.0") for row in ROWS_13] == expected
    assert [row.call for row in ROWS_13] == list(range(FIRST, FIRST + len(expected)))
    assert FIRST + len(PATCHES.split()) - 1 == LAST_OF_13_0


def test_number_of_the_published_example_is_that_of_sti() -> None:
    """Amsden's disassembly of process.o, 22 March 2006: record 23 00 00 00 stands at a `sti`."""
    assert Call13(0x23) is Call13.ENABLE_INTERRUPTS
    assert ROWS_13[0x23 - FIRST].native == "sti"


def test_what_does_not_differ_is_the_row_of_api_3() -> None:
    for row in ROWS_13:
        if row.call not in DIFFERENT:
            same = ROW_OF[SAME[row.call]]
            assert (row.name, row.arguments, row.results) == (
                same.name, same.arguments, same.results,
            )  # fmt: skip

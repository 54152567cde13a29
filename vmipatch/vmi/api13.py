# SPDX-License-Identifier: MIT
"""Which number has each call in API 13, and which calls and arguments are not those of API 3?

API 13.0 is what VMware posted in March 2006 (24 patches for Linux 2.6.16-rc5): calls have other
numbers, an entry is found by its number alone, and page tables are changed by calls that API 3.0
has no more. 13.3, which one public client speaks, appends three. Where names are the same as in
`table`, the call is the same; what differs has its row here.
Sources: the patches' vmiCalls.h, vmi.h, stubs.c and stubs-asm.S; for 85 to 87 vmi.h of sanos.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.table import ROW_OF, Argument, ArgumentPlace, CallRow, Clobbers

MAJOR_13, MINOR_13 = 13, 0
SLOT_LEN = 32
"""Bytes of an entry; that of call `n` is at `n * SLOT_LEN` in the ROM."""


class Call13(enum.IntEnum):
    """Call numbers, which are places too; 0 to 3 are the header's. From 85 on they are 13.3's."""

    INIT = 4
    CPUID = 5
    WRMSR = 6
    RDMSR = 7
    SET_GDT = 8
    SET_LDT = 9
    SET_IDT = 10
    SET_TR = 11
    GET_GDT = 12
    GET_LDT = 13
    GET_IDT = 14
    GET_TR = 15
    WRITE_GDT_ENTRY = 16
    WRITE_LDT_ENTRY = 17
    WRITE_IDT_ENTRY = 18
    UPDATE_KERNEL_STACK = 19
    SET_CR0 = 20
    SET_CR2 = 21
    SET_CR3 = 22
    SET_CR4 = 23
    GET_CR0 = 24
    GET_CR2 = 25
    GET_CR3 = 26
    GET_CR4 = 27
    INVD = 28
    WBINVD = 29
    SET_DR = 30
    GET_DR = 31
    RDPMC = 32
    RDTSC = 33
    CLTS = 34
    ENABLE_INTERRUPTS = 35
    DISABLE_INTERRUPTS = 36
    GET_INTERRUPT_MASK = 37
    SET_INTERRUPT_MASK = 38
    IRET = 39
    SYSEXIT = 40
    PAUSE = 41
    HALT = 42
    REBOOT = 43
    SHUTDOWN = 44
    SET_PXE_BY_ADDRESS = 45
    GET_PXE = 46
    SWAP_PXE = 47
    SET_PXE_LONG_UNFLAGGED = 48
    GET_PXE_LONG = 49
    SWAP_PXE_LONG_ATOMIC = 50
    TEST_AND_SET_PXE_BIT = 51
    TEST_AND_CLEAR_PXE_BIT = 52
    ALLOCATE_PAGE = 53
    RELEASE_PAGE = 54
    INVAL_PAGE = 55
    FLUSH_TLB = 56
    FLUSH_DEFERRED_CALLS = 57
    SET_LINEAR_MAPPING = 58
    INL = 59
    INB = 60
    INW = 61
    INSL = 62
    INSB = 63
    INSW = 64
    OUTL = 65
    OUTB = 66
    OUTW = 67
    OUTSL = 68
    OUTSB = 69
    OUTSW = 70
    SET_IOPL_MASK = 71
    DEACTIVATE_PXE_LONG_ATOMIC = 72
    TEST_AND_SET_PXE_LONG_BIT = 73
    TEST_AND_CLEAR_PXE_LONG_BIT = 74
    SET_INITIAL_AP_STATE = 75
    APIC_WRITE = 76
    APIC_READ = 77
    IO_DELAY = 78
    GET_CYCLE_FREQUENCY = 79
    GET_CYCLE_COUNTER = 80
    SET_ALARM = 81
    CANCEL_ALARM = 82
    GET_WALLCLOCK_TIME = 83
    WALLCLOCK_UPDATED = 84
    GET_RELOCATION_INFO = 85
    SET_PXE = 86
    SET_PXE_LONG = 87


LAST_OF_13_0 = Call13.WALLCLOCK_UPDATED

SAME: Final[dict[Call13, VmiCall]] = {
    call: VmiCall[call.name] for call in Call13 if call.name in VmiCall.__members__
}
"""The call of API 3 that has the same name."""


@dataclass(frozen=True, slots=True)
class Row13:
    """One call of API 13; the fields are those of CallRow."""

    call: Call13
    name: str
    does: str
    arguments: tuple[Argument, ...] = ()
    results: tuple[str, ...] = ()
    native: str = ""
    clobbers: Clobbers = Clobbers.STANDARD


_C = Call13
_EAX, _ECX, _EDX = ArgumentPlace.EAX, ArgumentPlace.ECX, ArgumentPlace.EDX
_ADDRESS: Final = "address of the entry"


def _at(*arguments: tuple[ArgumentPlace, str]) -> tuple[Argument, ...]:
    return tuple(Argument(place, meaning) for place, meaning in arguments)


_BIT: Final = _at((_EAX, _ADDRESS), (_EDX, "number of the bit"))
_LONG: Final = _at((_EAX, "low word"), (_EDX, "high word"), (_ECX, _ADDRESS))
_OLD_BIT: Final = "; all bits of the result are its old value"

_DIFFERENT: Final[tuple[Row13, ...]] = (
    Row13(_C.INIT, "Init", "begins to answer; 0 if it does", (), ("eax",)),
    Row13(
        _C.UPDATE_KERNEL_STACK, "UpdateKernelStack",
        "announces the kernel's stack for entries from user code, which the TSS has already",
        _at((_EAX, "address of the TSS, or anything"), (_EDX, "stack pointer")),
    ),
    Row13(_C.INVD, "INVD", "forgets caches; in the hypervisor as WBINVD", (), (), "invd"),
    Row13(_C.PAUSE, "Pause", "waits a moment", (), (), "pause"),
    Row13(
        _C.SET_PXE_BY_ADDRESS, "SetPxE of 13.0", "stores an entry of a page table",
        _at((_EAX, _ADDRESS), (_EDX, "entry")), (), "mov %edx,(%eax)",
    ),
    Row13(
        _C.GET_PXE, "GetPxE", "reads an entry of a page table",
        _at((_EAX, _ADDRESS)), ("eax",), "mov (%eax),%eax",
    ),
    Row13(
        _C.SWAP_PXE, "SwapPxE", "stores an entry of a page table and returns the old one",
        _at((_EAX, _ADDRESS), (_EDX, "entry")), ("eax",), "xchg %edx,(%eax)",
    ),
    Row13(
        _C.SET_PXE_LONG_UNFLAGGED, "SetPxELong of 13.0",
        "stores an entry of a PAE page table, never half of it", _LONG, (),
        "movl $0,(%ecx); mov %edx,4(%ecx); mov %eax,(%ecx)",
    ),
    Row13(
        _C.GET_PXE_LONG, "GetPxELong", "reads an entry of a PAE page table",
        _at((_EAX, _ADDRESS)), ("eax", "edx"), "mov 4(%eax),%edx; mov (%eax),%eax",
    ),
    Row13(
        _C.SWAP_PXE_LONG_ATOMIC, "SwapPxELongAtomic",
        "stores an entry of a PAE page table at once and returns the old one",
        _LONG, ("eax", "edx"), "lock cmpxchg8b (%ecx)",
    ),
    Row13(
        _C.TEST_AND_SET_PXE_BIT, "TestAndSetPxEBit", "sets a bit of an entry" + _OLD_BIT,
        _BIT, ("eax",), "lock bts %edx,(%eax); sbb %eax,%eax",
    ),
    Row13(
        _C.TEST_AND_CLEAR_PXE_BIT, "TestAndClearPxEBit", "clears a bit of an entry" + _OLD_BIT,
        _BIT, ("eax",), "lock btr %edx,(%eax); sbb %eax,%eax",
    ),
    Row13(
        _C.FLUSH_DEFERRED_CALLS, "FlushDeferredCalls",
        "wants updates that were put off to be made; ours puts none off, and returns 0",
        _at((_EAX, "0x80 of page tables, 0x40 or 0 of the processor's state")), ("eax",),
    ),
    Row13(
        _C.DEACTIVATE_PXE_LONG_ATOMIC, "DeactivatePxELongAtomic",
        "clears an entry of a PAE page table, its low word first, and returns the old one",
        _at((_EAX, _ADDRESS)), ("eax", "edx"), "xchg; mov 4(%ecx),%edx; movl $0,4(%ecx)",
    ),
    Row13(
        _C.TEST_AND_SET_PXE_LONG_BIT, "TestAndSetPxELongBit",
        "sets a bit of a PAE entry" + _OLD_BIT,
        _BIT, ("eax",), "lock bts %edx,(%eax); sbb %eax,%eax",
    ),
    Row13(
        _C.TEST_AND_CLEAR_PXE_LONG_BIT, "TestAndClearPxELongBit",
        "clears a bit of a PAE entry" + _OLD_BIT,
        _BIT, ("eax",), "lock btr %edx,(%eax); sbb %eax,%eax",
    ),
    Row13(
        _C.SET_INITIAL_AP_STATE, "SetInitialAPState",
        "says how another processor is to begin at its STARTUP interrupt",
        _at(
            (_EAX, "physical or linear address of the state, 0x5C bytes"),
            (_EDX, "APIC number"),
        ),
    ),
    Row13(
        _C.APIC_WRITE, "APICWrite", "writes a register of the local APIC",
        _at((_EAX, "linear address of the register"), (_EDX, "value")), (), "mov %edx,(%eax)",
    ),
    Row13(
        _C.APIC_READ, "APICRead", "reads a register of the local APIC",
        _at((_EAX, "linear address of the register")), ("eax",), "mov (%eax),%eax",
    ),
    Row13(
        _C.GET_RELOCATION_INFO, "GetRelocationInfo",
        "tells the address of a call's entry, and 1: a near call; for no call 0 and 0",
        _at((_EAX, "number of a call")), ("eax", "edx"),
    ),
)  # fmt: skip
_ROW_OF_DIFFERENT: Final = {row.call: row for row in _DIFFERENT}


def _row(call: Call13) -> Row13:
    if (row := _ROW_OF_DIFFERENT.get(call)) is not None:
        return row
    same: CallRow = ROW_OF[SAME[call]]
    return Row13(
        call, same.name, same.does, same.arguments, same.results, same.native, same.clobbers
    )


ROWS_13: Final[tuple[Row13, ...]] = tuple(_row(call) for call in Call13)
"""In the order of the numbers."""

ROW_OF_13: Final = {row.call: row for row in ROWS_13}

DIFFERENT: Final = frozenset(_ROW_OF_DIFFERENT)
"""The calls that API 3 has not, or has with other arguments."""

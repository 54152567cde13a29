# SPDX-License-Identifier: MIT
"""What does each VMI call take, return, spoil and do? The one table of API 3.0 and our 3.1.

Numbers, argument registers and semantics are those of the kernels that shipped (Linux 2.6.21 to
2.6.36, arch/x86/kernel/vmi_32.c and vmiclock_32.c); what those never call follows the specification
of March 2006 (version 2.0). Where the two disagree, the kernels are right. The convention is that
of regparm(3): EAX, EDX, ECX, then the stack; the caller takes stack arguments off.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from vmipatch.vmi.calls import VmiCall


class ArgumentPlace(enum.Enum):
    """Where an argument is when the entry begins."""

    EAX = "eax"
    ECX = "ecx"
    EDX = "edx"
    ESI = "esi"
    EDI = "edi"
    STACK_1 = "4(esp)"
    STACK_2 = "8(esp)"
    FRAME = "frame after the return address"

    @property
    def is_register(self) -> bool:
        """Whether it is a general register."""
        return len(self.value) == 3


class Clobbers(enum.Enum):
    """Registers that API 3.0 lets a call spoil besides its results. Our 3.1 spoils none of them."""

    STANDARD = "eax, ecx, edx, flags"
    FLAGS = "flags"
    NOTHING = "nothing"


class ArgumentSource(enum.Enum):
    """Who says so."""

    KERNEL = "Linux 2.6.21-2.6.36"
    SPECIFICATION = "specification 2.0"
    OWN = "API 3.1"


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument: where it is, what it means."""

    place: ArgumentPlace
    meaning: str


@dataclass(frozen=True, slots=True)
class CallRow:
    """One call."""

    call: VmiCall
    name: str
    """As the specification spells it."""
    does: str
    arguments: tuple[Argument, ...] = ()
    results: tuple[str, ...] = ()
    """General registers; what is stored in memory is said in `does`."""
    native: str = ""
    """The instructions it stands for; empty: none."""
    clobbers: Clobbers = Clobbers.STANDARD
    hot: bool = False
    """To be answered without leaving the guest."""
    source: ArgumentSource = ArgumentSource.KERNEL

    @property
    def is_documented(self) -> bool:
        """Whether anybody says what it does; else it is answered NONE."""
        return bool(self.does)


_C, _K, _S, _O = VmiCall, ArgumentSource.KERNEL, ArgumentSource.SPECIFICATION, ArgumentSource.OWN
_F, _NO = Clobbers.FLAGS, Clobbers.NOTHING


def _at(**meanings: str) -> tuple[Argument, ...]:
    """Arguments by the names of their places in small letters."""
    return tuple(Argument(ArgumentPlace[place.upper()], text) for place, text in meanings.items())


_TABLE_AT: Final = _at(eax="address of limit (u16) and base (u32)")
_SELECTOR: Final = _at(eax="selector")
_VALUE: Final = _at(eax="value")
_ENTRY: Final = _at(eax="base of the table", edx="index", ecx="low word", stack_1="high word")
_PORT_IN: Final = _at(edx="port")
_PORT_OUT: Final = _at(eax="value", edx="port")
_STRING_IN: Final = _at(edi="destination in es", edx="port", ecx="count")
_STRING_OUT: Final = _at(esi="source in ds", edx="port", ecx="count")
_SET_GDT: Final = "loads GDTR; segment registers keep what they hold until they are loaded again"
_SET_LDT: Final = "loads LDTR; segment registers keep what they hold until they are loaded again"
_COUNTER: Final = "0 real, 1 available, 2 stolen"

ROWS: Final[tuple[CallRow, ...]] = (
    CallRow(
        _C.CPUID, "CPUID", "identifies the processor",
        _at(eax="leaf", ecx="subleaf"), ("eax", "ebx", "ecx", "edx"), "cpuid", _F,
    ),
    CallRow(
        _C.WRMSR, "WRMSR", "writes a model-specific register",
        _at(ecx="number", eax="low word", edx="high word"), (), "wrmsr", source=_S,
    ),
    CallRow(
        _C.RDMSR, "RDMSR", "reads a model-specific register",
        _at(ecx="number"), ("eax", "edx"), "rdmsr", source=_S,
    ),
    CallRow(_C.SET_GDT, "SetGDT", _SET_GDT, _TABLE_AT, (), "lgdt (%eax)"),
    CallRow(_C.SET_LDT, "SetLDT", _SET_LDT, _SELECTOR, (), "lldt %ax"),
    CallRow(_C.SET_IDT, "SetIDT", "loads IDTR", _TABLE_AT, (), "lidt (%eax)"),
    CallRow(_C.SET_TR, "SetTR", "loads the task register", _SELECTOR, (), "ltr %ax"),
    CallRow(
        _C.GET_GDT, "GetGDT", "stores GDTR",
        _at(eax="address for limit (u16) and base (u32)"), (), "sgdt (%eax)", hot=True,
    ),
    CallRow(
        _C.GET_LDT, "GetLDT", "reads LDTR", (), ("eax",), "sldt %ax", hot=True, source=_S
    ),
    CallRow(
        _C.GET_IDT, "GetIDT", "stores IDTR",
        _at(eax="address for limit (u16) and base (u32)"), (), "sidt (%eax)", hot=True,
    ),
    CallRow(_C.GET_TR, "GetTR", "reads the task register", (), ("eax",), "str %ax", hot=True),
    CallRow(
        _C.WRITE_GDT_ENTRY, "WriteGDTEntry", "writes a descriptor of the GDT", _ENTRY, (),
        "mov %ecx,(%eax,%edx,8); mov 4(%esp),4(%eax,%edx,8)", hot=True,
    ),
    CallRow(
        _C.WRITE_LDT_ENTRY, "WriteLDTEntry", "writes a descriptor of the LDT", _ENTRY, (),
        "mov %ecx,(%eax,%edx,8); mov 4(%esp),4(%eax,%edx,8)", hot=True,
    ),
    CallRow(
        _C.WRITE_IDT_ENTRY, "WriteIDTEntry",
        "writes a gate of the IDT, or an entry of the table that eax is the base of", _ENTRY, (),
        "mov %ecx,(%eax,%edx,8); mov 4(%esp),4(%eax,%edx,8)",
    ),
    CallRow(
        _C.UPDATE_KERNEL_STACK, "UpdateKernelStack",
        "announces the kernel's stack for entries from user code, which the TSS has already",
        _at(eax="selector of the stack segment, or anything", edx="stack pointer"), hot=True,
    ),
    CallRow(_C.SET_CR0, "SetCR0", "writes CR0", _VALUE, (), "mov %eax,%cr0"),
    CallRow(_C.SET_CR2, "SetCR2", "writes CR2", _VALUE, (), "mov %eax,%cr2"),
    CallRow(
        _C.SET_CR3, "SetCR3", "writes CR3, forgets translations", _VALUE, (), "mov %eax,%cr3"
    ),
    CallRow(_C.SET_CR4, "SetCR4", "writes CR4", _VALUE, (), "mov %eax,%cr4"),
    CallRow(_C.GET_CR0, "GetCR0", "reads CR0", (), ("eax",), "mov %cr0,%eax", hot=True),
    CallRow(_C.GET_CR2, "GetCR2", "reads CR2", (), ("eax",), "mov %cr2,%eax", hot=True),
    CallRow(_C.GET_CR3, "GetCR3", "reads CR3", (), ("eax",), "mov %cr3,%eax", hot=True),
    CallRow(_C.GET_CR4, "GetCR4", "reads CR4", (), ("eax",), "mov %cr4,%eax", hot=True),
    CallRow(_C.WBINVD, "WBINVD", "writes caches back", (), (), "wbinvd"),
    CallRow(
        _C.SET_DR, "SetDR", "writes a debug register; a number without one is ignored",
        _at(eax="number", edx="value"), (), "mov %edx,%dbN",
    ),
    CallRow(
        _C.GET_DR, "GetDR", "reads a debug register",
        _at(eax="number"), ("eax",), "mov %dbN,%eax",
    ),
    CallRow(
        _C.RDPMC, "RDPMC", "reads a performance counter",
        _at(ecx="counter"), ("eax", "edx"), "rdpmc", source=_S,
    ),
    CallRow(
        _C.RDTSC, "RDTSC", "reads the time-stamp counter", (), ("eax", "edx"), "rdtsc", hot=True
    ),
    CallRow(_C.CLTS, "CLTS", "clears CR0.TS", (), (), "clts"),
    CallRow(
        _C.ENABLE_INTERRUPTS, "EnableInterrupts",
        "sets IF; what waits is delivered before the return", (), (), "sti", _F, True,
    ),
    CallRow(
        _C.DISABLE_INTERRUPTS, "DisableInterrupts", "clears IF", (), (), "cli", _F, True
    ),
    CallRow(
        _C.GET_INTERRUPT_MASK, "GetInterruptMask", "reads IF: 0x200 or 0",
        (), ("eax",), "pushf; pop %eax", _F, True,
    ),
    CallRow(
        _C.SET_INTERRUPT_MASK, "SetInterruptMask",
        "sets IF to bit 9; what waits is delivered before the return",
        _at(eax="flags, of which bit 9 counts"), (), "push %eax; popf", _F, True,
    ),
    CallRow(
        _C.IRET, "IRET",
        "returns by the frame: IF and, to the user, IOPL from it; a fault is reported at the site",
        _at(frame="EIP, CS, EFLAGS, then ESP and SS for the user"), (), "iret", _NO, True,
    ),
    CallRow(
        _C.SYSEXIT, "SYSEXIT", "sets IF and goes on in user code, as one",
        _at(edx="EIP", ecx="ESP"), (), "sti; sysexit", _NO, True,
    ),
    CallRow(
        _C.HALT, "Halt", "sets IF and waits for an interrupt, as one", (), (), "sti; hlt"
    ),
    CallRow(
        _C.REBOOT, "Reboot", "resets the machine; does not return",
        _at(eax="0 soft, 1 hard"), source=_S,
    ),
    CallRow(
        _C.SHUTDOWN, "Shutdown", "stops the processor; does not return", (), (), "cli; hlt",
        source=_S,
    ),
    CallRow(
        _C.SET_PXE, "SetPxE", "stores an entry of a page table",
        _at(eax="entry", edx="address of the entry", ecx="flags"), (), "mov %eax,(%edx)", hot=True,
    ),
    CallRow(
        _C.SET_PXE_LONG, "SetPxELong", "stores an entry of a PAE page table, never half of it",
        _at(eax="low word", edx="high word", ecx="address of the entry", stack_1="flags"), (),
        "movl $0,(%ecx); mov %edx,4(%ecx); mov %eax,(%ecx)", hot=True,
    ),
    CallRow(
        _C.UPDATE_PXE, "UpdatePxE", "says that an entry was changed by the guest",
        _at(eax="address of the entry", edx="flags"), hot=True,
    ),
    CallRow(
        _C.UPDATE_PXE_LONG, "UpdatePxELong", "says that a PAE entry was changed by the guest",
        _at(eax="address of the entry", edx="flags"), hot=True,
    ),
    CallRow(_C.MACHINE_TO_PHYSICAL, "MachineToPhysical", "", source=_S),
    CallRow(_C.PHYSICAL_TO_MACHINE, "PhysicalToMachine", "", source=_S),
    CallRow(
        _C.ALLOCATE_PAGE, "AllocatePage", "announces a page table",
        _at(
            eax="page frame", edx="flags", ecx="page frame to clone from",
            stack_1="first entry cloned", stack_2="number of entries cloned",
        ), hot=True,
    ),
    CallRow(
        _C.RELEASE_PAGE, "ReleasePage", "takes an announcement back",
        _at(eax="page frame", edx="flags"), hot=True,
    ),
    CallRow(
        _C.INVAL_PAGE, "InvalPage", "forgets the translation of a page",
        _at(eax="linear address"), (), "invlpg (%eax)",
    ),
    CallRow(
        _C.FLUSH_TLB, "FlushTLB", "forgets translations",
        _at(eax="1 those of the address space, 2 global ones too"), (),
        "reload of %cr3; %cr4.PGE off and on",
    ),
    CallRow(
        _C.SET_LINEAR_MAPPING, "SetLinearMapping",
        "says where the guest maps physical memory, perhaps more than there is",
        _at(eax="slot, 0 to 3", edx="linear address", ecx="pages", stack_1="first page frame"),
        hot=True,
    ),
    CallRow(_C.INL, "INL", "reads 32 bits of a port", _PORT_IN, ("eax",), "in %dx,%eax", _NO,
            source=_S),
    CallRow(_C.INB, "INB", "reads 8 bits of a port", _PORT_IN, ("eax",), "in %dx,%al", _NO,
            source=_S),
    CallRow(_C.INW, "INW", "reads 16 bits of a port", _PORT_IN, ("eax",), "in %dx,%ax", _NO,
            source=_S),
    CallRow(_C.INSL, "INSL", "reads a port into memory, 32 bits each",
            _STRING_IN, ("edi", "ecx"), "rep insl", _NO, source=_S),
    CallRow(_C.INSB, "INSB", "reads a port into memory, 8 bits each",
            _STRING_IN, ("edi", "ecx"), "rep insb", _NO, source=_S),
    CallRow(_C.INSW, "INSW", "reads a port into memory, 16 bits each",
            _STRING_IN, ("edi", "ecx"), "rep insw", _NO, source=_S),
    CallRow(_C.OUTL, "OUTL", "writes 32 bits to a port", _PORT_OUT, (), "out %eax,%dx", _NO,
            source=_S),
    CallRow(_C.OUTB, "OUTB", "writes 8 bits to a port", _PORT_OUT, (), "out %al,%dx", _NO,
            source=_S),
    CallRow(_C.OUTW, "OUTW", "writes 16 bits to a port", _PORT_OUT, (), "out %ax,%dx", _NO,
            source=_S),
    CallRow(_C.OUTSL, "OUTSL", "writes memory to a port, 32 bits each",
            _STRING_OUT, ("esi", "ecx"), "rep outsl", _NO, source=_S),
    CallRow(_C.OUTSB, "OUTSB", "writes memory to a port, 8 bits each",
            _STRING_OUT, ("esi", "ecx"), "rep outsb", _NO, source=_S),
    CallRow(_C.OUTSW, "OUTSW", "writes memory to a port, 16 bits each",
            _STRING_OUT, ("esi", "ecx"), "rep outsw", _NO, source=_S),
    CallRow(
        _C.SET_IOPL_MASK, "SetIOPLMask", "sets the IOPL of user code",
        _at(eax="IOPL in bits 12 and 13"), (), "pushf; and, or (%esp); popf",
    ),
    CallRow(
        _C.SET_INITIAL_AP_STATE, "SetInitialAPState",
        "says how another processor is to begin at its STARTUP interrupt",
        _at(eax="address of the state, 0x5C bytes", edx="APIC number"),
    ),
    CallRow(
        _C.APIC_WRITE, "APICWrite", "writes a register of the local APIC",
        _at(eax="register's offset, bits 11 to 0", edx="value"), (), "mov %edx,(APIC+%eax)",
    ),
    CallRow(
        _C.APIC_READ, "APICRead", "reads a register of the local APIC",
        _at(eax="register's offset, bits 11 to 0"), ("eax",), "mov (APIC+%eax),%eax",
    ),
    CallRow(_C.IO_DELAY, "IODelay", "waits as long as a port needs", (), (), "out %al,$0x80",
            hot=True),
    CallRow(
        _C.GET_CYCLE_FREQUENCY, "GetCycleFrequency", "reads the counters' frequency in Hz",
        (), ("eax", "edx"), hot=True,
    ),
    CallRow(
        _C.GET_CYCLE_COUNTER, "GetCycleCounter", "reads a counter of cycles",
        _at(eax=_COUNTER), ("eax", "edx"), hot=True,
    ),
    CallRow(
        _C.SET_ALARM, "SetAlarm",
        "sets the alarm of a counter; an earlier one is forgotten, a stolen counter has none",
        _at(
            eax="counter in bits 7 to 0, 0x100 periodic, 0x10000 by LVTT instead of IRQ 0",
            edx="expiry, low word", ecx="expiry, high word",
            stack_1="period, low word", stack_2="period, high word",
        ),
    ),
    CallRow(
        _C.CANCEL_ALARM, "CancelAlarm", "forgets an alarm; 1 if there was one",
        _at(eax="counter in bits 7 to 0"), ("eax",),
    ),
    CallRow(
        _C.GET_WALLCLOCK_TIME, "GetWallclockTime", "reads nanoseconds since 1970",
        (), ("eax", "edx"), hot=True,
    ),
    CallRow(
        _C.WALLCLOCK_UPDATED, "WallclockUpdated",
        "1 if the wall clock was set since this was last asked, else 0",
        (), ("eax",), hot=True,
    ),
    CallRow(_C.SET_CALLBACKS, "SetCallbacks", "", source=_S),
    CallRow(
        _C.SET_LAZY_MODE, "SetLazyMode", "allows to put updates off",
        _at(eax="0 none, 1 of page tables, 2 of the processor's state"), hot=True,
    ),
    CallRow(
        _C.SET_XCR, "SetXCR", "writes an extended control register",
        _at(ecx="number", eax="low word", edx="high word"), (), "xsetbv", source=_O,
    ),
    CallRow(
        _C.READ_SEGMENT, "ReadSegment", "CS or SS with RPL 0; a thunk does it, no ROM",
        (), ("eax",), "mov %cs,%eax", source=_O,
    ),
    CallRow(
        _C.SET_FALLBACK, "SetFallback", "announces the table of one-byte fallbacks",
        _at(eax="address of the table", edx="entries"), source=_O,
    ),
    CallRow(
        _C.SET_RUNTIME, "SetRuntime", "announces the code that was added to the kernel",
        _at(eax="first address", edx="address after it"), source=_O,
    ),
)  # fmt: skip
"""In the order of the numbers."""

ROW_OF: Final = {row.call: row for row in ROWS}

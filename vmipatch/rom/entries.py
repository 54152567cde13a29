# SPDX-License-Identifier: MIT
"""Which calls does the ROM serve, and by what means?"""

from __future__ import annotations

import enum

from vmipatch.choices import Flavor
from vmipatch.vmi.calls import VmiCall


class RelocationType(enum.IntEnum):
    """The caller's use of a site (VMI 3.0, the type field of GetRelocationInfo)."""

    NONE = 0  # leaves the native instruction
    CALL_REL = 1  # writes a near call
    JUMP_REL = 2  # writes a near jump
    NOP = 3  # writes nothing but padding


class Means(enum.Enum):
    """How the paravirtual ROM serves a call."""

    OWN_CODE = "code of its own; but for the halts it leaves the guest only for a waiting event"
    INSTRUCTION = "the instruction, as in the native ROM; the hypervisor sees it if it has to"
    HYPERCALL = "an interrupt that the hypervisor takes"


_C = VmiCall

SERVED: dict[VmiCall, Means] = dict(
    sorted(
        [
            *((call, Means.OWN_CODE) for call in (
                _C.ENABLE_INTERRUPTS, _C.DISABLE_INTERRUPTS, _C.GET_INTERRUPT_MASK,
                _C.SET_INTERRUPT_MASK, _C.IRET, _C.GET_CR0, _C.GET_CR2, _C.GET_CR3, _C.GET_CR4,
                _C.GET_GDT, _C.GET_IDT, _C.GET_LDT, _C.GET_TR, _C.RDTSC, _C.HALT, _C.SHUTDOWN,
                _C.GET_CYCLE_FREQUENCY, _C.GET_CYCLE_COUNTER, _C.GET_WALLCLOCK_TIME,
                _C.WALLCLOCK_UPDATED,
            )),
            *((call, Means.INSTRUCTION) for call in (
                _C.CPUID, _C.INL, _C.INB, _C.INW, _C.INSL, _C.INSB, _C.INSW,
                _C.OUTL, _C.OUTB, _C.OUTW, _C.OUTSL, _C.OUTSB, _C.OUTSW,
                _C.WRITE_GDT_ENTRY, _C.WRITE_LDT_ENTRY, _C.WRITE_IDT_ENTRY, _C.SET_PXE,
                _C.SET_PXE_LONG, _C.UPDATE_KERNEL_STACK, _C.UPDATE_PXE, _C.UPDATE_PXE_LONG,
                _C.ALLOCATE_PAGE, _C.RELEASE_PAGE, _C.SET_LINEAR_MAPPING, _C.SET_LAZY_MODE,
            )),
            *((call, Means.HYPERCALL) for call in (
                _C.SET_GDT, _C.SET_IDT, _C.SET_LDT, _C.SET_TR, _C.SET_CR0, _C.SET_CR2, _C.SET_CR3,
                _C.SET_CR4, _C.CLTS, _C.SET_DR, _C.GET_DR, _C.WBINVD, _C.INVAL_PAGE, _C.SYSEXIT,
                _C.REBOOT, _C.FLUSH_TLB, _C.SET_IOPL_MASK, _C.APIC_READ, _C.APIC_WRITE,
                _C.SET_ALARM, _C.CANCEL_ALARM, _C.SET_FALLBACK, _C.SET_RUNTIME,
                _C.SET_INITIAL_AP_STATE,
            )),
        ]
    )
)  # fmt: skip
"""Every call with an entry in the paravirtual ROM, in the order of the numbers.

All are answered CALL_REL: the return address tells the hypervisor which site called. RDMSR, WRMSR
and RDPMC are missing on purpose: when they fault, the kernel's exception table must find the site.
"""

HYPERVISOR_ONLY = frozenset(
    {
        _C.GET_CYCLE_FREQUENCY, _C.GET_CYCLE_COUNTER, _C.SET_ALARM, _C.CANCEL_ALARM,
        _C.GET_WALLCLOCK_TIME, _C.WALLCLOCK_UPDATED, _C.APIC_READ, _C.APIC_WRITE,
        _C.SET_FALLBACK, _C.SET_RUNTIME,
    }
)  # fmt: skip
"""Calls that stand for no instruction: the ROMs for a PC decline them.

They have no state to measure a clock with, and do not know where the kernel maps its local APIC:
the kernel's own way is the right one there. The timer calls belong together.
"""

NEEDLESS = frozenset({VmiCall.IO_DELAY})
"""Calls whose sites become padding."""

TRACE_PORT = 0xE9
"""Where QEMU's isa-debugcon listens."""


def served_calls(flavor: Flavor) -> tuple[VmiCall, ...]:
    """The calls with an entry in a ROM of that flavour, in the order of the numbers."""
    if flavor is Flavor.PARAVIRT:
        return tuple(SERVED)
    return tuple(call for call in SERVED if call not in HYPERVISOR_ONLY)


def relocation_type(call: VmiCall, flavor: Flavor) -> RelocationType:
    """The type that GetRelocationInfo answers for `call`."""
    if call in NEEDLESS:
        return RelocationType.NOP
    served = call in served_calls(flavor)
    return RelocationType.CALL_REL if served else RelocationType.NONE

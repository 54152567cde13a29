# SPDX-License-Identifier: MIT
"""Which calls does the ROM serve, and by what means?"""

from __future__ import annotations

import enum

from vmipatch.vmi.calls import VmiCall


class Flavor(enum.Enum):
    """What a ROM is for."""

    PARAVIRT = "paravirt"  # for the hypervisor of this package
    NATIVE = "native"  # for any PC: every call is the instruction itself
    TRACE = "trace"  # native, and each call writes its number to TRACE_PORT


class RelocationType(enum.IntEnum):
    """What a caller does with a site (VMI 3.0, the type field of GetRelocationInfo)."""

    NONE = 0  # leaves the native instruction
    CALL_REL = 1  # writes a near call
    JUMP_REL = 2  # writes a near jump
    NOP = 3  # writes nothing but padding


class Means(enum.Enum):
    """How the paravirtual ROM serves a call."""

    OWN_CODE = "code of its own; but for the halts it leaves the guest only for a waiting event"
    INSTRUCTION = "the instruction, as in the native ROM; the hypervisor sees it"
    HYPERCALL = "an interrupt that the hypervisor takes"


_C = VmiCall

SERVED: dict[VmiCall, Means] = dict(
    sorted(
        [
            *((call, Means.OWN_CODE) for call in (
                _C.ENABLE_INTERRUPTS, _C.DISABLE_INTERRUPTS, _C.GET_INTERRUPT_MASK,
                _C.SET_INTERRUPT_MASK, _C.IRET, _C.GET_CR0, _C.GET_CR2, _C.GET_CR3, _C.GET_CR4,
                _C.GET_GDT, _C.GET_IDT, _C.GET_LDT, _C.GET_TR, _C.RDTSC, _C.HALT, _C.SHUTDOWN,
            )),
            *((call, Means.INSTRUCTION) for call in (
                _C.CPUID, _C.INL, _C.INB, _C.INW, _C.INSL, _C.INSB, _C.INSW,
                _C.OUTL, _C.OUTB, _C.OUTW, _C.OUTSL, _C.OUTSB, _C.OUTSW,
            )),
            *((call, Means.HYPERCALL) for call in (
                _C.SET_GDT, _C.SET_IDT, _C.SET_LDT, _C.SET_TR, _C.SET_CR0, _C.SET_CR2, _C.SET_CR3,
                _C.SET_CR4, _C.CLTS, _C.SET_DR, _C.GET_DR, _C.WBINVD, _C.INVAL_PAGE, _C.SYSEXIT,
                _C.SET_FALLBACK, _C.SET_RUNTIME,
            )),
        ]
    )
)  # fmt: skip
"""Every call with an entry in the paravirtual ROM, in the order of the numbers.

All are answered CALL_REL: the return address tells the hypervisor which site called. RDMSR, WRMSR
and RDPMC are missing on purpose: when they fault, the kernel's exception table must find the site.
"""

HYPERVISOR_ONLY = frozenset({VmiCall.SET_FALLBACK, VmiCall.SET_RUNTIME})
"""Calls that stand for no instruction: the ROMs for a PC do not know them."""

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

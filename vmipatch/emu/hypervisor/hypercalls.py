# SPDX-License-Identifier: MIT
"""What does the hypervisor do for each VMI call that the ROM hands on?

Arguments are in the registers of the call, as in API 3.0 (EAX, EDX, ECX); everything but the
results stays. A call may raise Fault and PageFault: the guest then sees them at its call site.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from vmipatch.emu.hypervisor import control, tables
from vmipatch.emu.hypervisor.context import Context
from vmipatch.emu.processor.bits import ControlRegister
from vmipatch.emu.processor.events import Fault, Vector
from vmipatch.emu.report import Ending, GuestEnded
from vmipatch.vmi.calls import VmiCall

CallBody = Callable[[Context], None]

_DR_COUNT: Final = 8


def _set_control(number: ControlRegister) -> CallBody:
    return lambda context: control.set_control(context, number, context.registers.eax)


def _set_gdt(context: Context) -> None:
    tables.set_gdt(context, tables.read_image(context, context.registers.eax))


def _set_idt(context: Context) -> None:
    tables.set_idt(context, tables.read_image(context, context.registers.eax))


def _set_ldt(context: Context) -> None:
    tables.set_ldt(context, context.registers.eax & 0xFFFF)


def _set_tr(context: Context) -> None:
    tables.set_task(context, context.registers.eax & 0xFFFF)


def _set_dr(context: Context) -> None:
    """A number without a register is ignored, as by the ROMs for a PC."""
    registers = context.registers
    if registers.eax < _DR_COUNT:
        control.set_debug(context, registers.eax, registers.edx)


def _get_dr(context: Context) -> None:
    registers = context.registers
    if registers.eax < _DR_COUNT:
        registers.eax = control.debug_value(context, registers.eax)


def _inval_page(context: Context) -> None:
    control.forget_page(context, context.registers.eax)


def _wbinvd(_: Context) -> None:
    """Caches are not modelled."""


def _rdpmc(_: Context) -> None:
    """The processor that is presented has no performance counters."""
    raise Fault(Vector.UNDEFINED, 0)


def _set_iopl_mask(context: Context) -> None:
    context.vcpu.iopl = context.registers.eax >> 12 & 3


def _shutdown(_: Context) -> None:
    raise GuestEnded(Ending.HALTED, "call of Shutdown")


def _reboot(_: Context) -> None:
    raise GuestEnded(Ending.RESET, "call of Reboot")


CALLS: Final[dict[VmiCall, CallBody]] = {
    VmiCall.SET_GDT: _set_gdt,
    VmiCall.SET_IDT: _set_idt,
    VmiCall.SET_LDT: _set_ldt,
    VmiCall.SET_TR: _set_tr,
    VmiCall.SET_CR0: _set_control(ControlRegister.CR0),
    VmiCall.SET_CR2: _set_control(ControlRegister.CR2),
    VmiCall.SET_CR3: _set_control(ControlRegister.CR3),
    VmiCall.SET_CR4: _set_control(ControlRegister.CR4),
    VmiCall.CLTS: control.clear_task_switched,
    VmiCall.SET_DR: _set_dr,
    VmiCall.GET_DR: _get_dr,
    VmiCall.WBINVD: _wbinvd,
    VmiCall.WRMSR: control.write_model_specific,
    VmiCall.RDMSR: control.read_model_specific,
    VmiCall.RDPMC: _rdpmc,
    VmiCall.INVAL_PAGE: _inval_page,
    VmiCall.FLUSH_TLB: control.flush_tlb,
    VmiCall.SET_IOPL_MASK: _set_iopl_mask,
    VmiCall.SHUTDOWN: _shutdown,
    VmiCall.REBOOT: _reboot,
}
"""Calls without a result of their own kind; SYSEXIT and SET_FALLBACK are in `numbered_calls`.

RDMSR, WRMSR and RDPMC are calls of the ROM of API 13 alone.
"""

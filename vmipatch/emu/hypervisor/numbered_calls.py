# SPDX-License-Identifier: MIT
"""Which calls does the ROM hand on by number, and what does each of them need of the hypervisor?

Most change registers and tables alone (`hypercalls`) or devices (`device_calls`). The others are
here: returns to the user, and what the guest announces.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from vmipatch.emu.hypervisor import returns
from vmipatch.emu.hypervisor.context import Context
from vmipatch.emu.hypervisor.device_calls import DEVICE_CALLS
from vmipatch.emu.hypervisor.fallback import MAX_ENTRIES, read_fallbacks
from vmipatch.emu.hypervisor.hypercalls import CALLS
from vmipatch.emu.hypervisor.initial_state import STATE_LEN, InitialState
from vmipatch.emu.hypervisor.virtual_cpu import USER_RING
from vmipatch.emu.hypervisor.world import World
from vmipatch.emu.parts import MachineParts
from vmipatch.emu.processor.events import Fault, Vector
from vmipatch.emu.processor.paging import PageFault
from vmipatch.emu.schedule import MOST_PROCESSORS
from vmipatch.vmi.calls import VmiCall

_NS_PER_ENTRY: Final = 500
_ENTRIES_PER_EXIT: Final = 8
"""Cost of reading one entry of a table of fallbacks, in the guest's time and the host's."""
_SYSENTER_CS: Final = 0x174
_USER_CS_OFF, _USER_SS_OFF = 16, 24


class NumberedCalls:
    """The calls of one processor."""

    def __init__(
        self,
        parts: MachineParts,
        world: World,
        context: Context,
        note_pending: Callable[[], None],
        spend: Callable[[int], None],
    ) -> None:
        """`note_pending`: look again whether an interrupt waits; `spend`: so many exits' time."""
        self._parts = parts
        self._world = world
        self._context = context
        self._note_pending = note_pending
        self._spend = spend

    def serve(self, number: int) -> None:
        """Do call `number`. Raises Fault, PageFault; #GP for a call that is not served."""
        try:
            call = VmiCall(number)
        except ValueError:
            raise Fault(Vector.PROTECTION, 0) from None
        if call is VmiCall.SET_FALLBACK:
            self._set_fallback()
        elif call is VmiCall.SET_RUNTIME:
            self._set_runtime()
        elif call is VmiCall.SET_INITIAL_AP_STATE:
            self._set_initial_state()
        elif call is VmiCall.SYSEXIT:
            self._sysexit()
        elif call is VmiCall.IRET:
            self._iret_on_other_stack()
        elif (body := CALLS.get(call)) is not None:
            body(self._context)
            if call is VmiCall.SET_IOPL_MASK:
                self._note_pending()  # which tells the ROM of another IOPL than 0, too
        elif (device_body := DEVICE_CALLS.get(call)) is not None:
            device_body(self._context, self._parts.local)
            self._note_pending()
        else:
            raise Fault(Vector.PROTECTION, 0)

    def _set_fallback(self) -> None:
        registers = self._context.registers
        entries = min(registers.edx, MAX_ENTRIES)
        self._spend(entries // _ENTRIES_PER_EXIT)
        self._parts.clock.pass_ns(entries * _NS_PER_ENTRY)
        try:
            found = read_fallbacks(self._context.mmu, registers.eax, registers.edx)
        except ValueError:
            raise Fault(Vector.PROTECTION, 0) from None
        self._world.fallbacks = found

    def _set_runtime(self) -> None:
        """Exempt from the audit the code that the rewriter added, and never the kernel."""
        registers = self._context.registers
        wanted = range(registers.eax, registers.edx)
        own_code = self._world.own_code
        if own_code is None or not own_code.announce(wanted, self._context.mmu):
            raise Fault(Vector.PROTECTION, 0)

    def _set_initial_state(self) -> None:
        """How another processor begins, once STARTUP comes."""
        registers = self._context.registers
        octets = self._context.mmu.read(self._world.rom.state_va(registers.eax), STATE_LEN)
        if registers.edx < MOST_PROCESSORS:
            self._world.states[registers.edx] = InitialState.parse(octets)

    def _iret_on_other_stack(self) -> None:
        """IRET where SS is not the segment of VMI_Init: ESP is at EBX, return address and frame."""
        context = self._context
        registers = context.registers
        caller_ebx, at = context.peek(0), registers.esp
        context.drop(8)
        try:
            returns.vmi_iret(context)
        except (Fault, PageFault):
            registers.esp = at
            raise
        registers.ebx = caller_ebx
        self._note_pending()

    def _sysexit(self) -> None:
        """To the user: EIP from EDX, ESP from ECX, EBX from the stack, virtual IF on."""
        context = self._context
        registers = context.registers
        selector = context.cpu.read_msr(_SYSENTER_CS) & 0xFFFC
        if not selector:
            raise Fault(Vector.PROTECTION, 0)
        caller_ebx = context.peek(0)
        returns.enter_user(
            context,
            registers.edx,
            registers.ecx,
            (selector + _USER_CS_OFF) | USER_RING,
            (selector + _USER_SS_OFF) | USER_RING,
        )
        registers.ebx = caller_ebx
        context.vcpu.page.interrupts_enabled = True

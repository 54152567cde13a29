# SPDX-License-Identifier: MIT
"""How does an unmodified kernel run at CPL 1? By trap and emulate, from its first instruction on.

The guest kernel has CPL 1 and IOPL 0, and its page tables as they are: ring 1 is a supervisor's.
What is privileged faults; what is sensitive and would not fault is intercepted. Both end in
`on_interrupt`, are emulated, and leave the guest with what it would have seen at CPL 0. All other
events go to the guest's own handlers.
"""

from __future__ import annotations

from typing import Final

from vmipatch.emu.hypervisor.deprivileged import PAUSED
from vmipatch.emu.hypervisor.emulate import emulate
from vmipatch.emu.hypervisor.exits import ExitKind, exit_kind
from vmipatch.emu.hypervisor.virtual_cpu import USER_RING
from vmipatch.emu.hypervisor.waiting import WaitingInterrupts
from vmipatch.emu.processor.debug_registers import DR6_RESET
from vmipatch.emu.processor.events import (
    WITH_ERROR_CODE,
    Cause,
    Event,
    Fault,
    Vector,
)
from vmipatch.emu.processor.intercepts import VMEXIT
from vmipatch.emu.processor.paging import PageFault
from vmipatch.emu.report import Ending, GuestEnded
from vmipatch.isa.trapped import TrappedInstruction

_CLI, _STI = b"\xfa", b"\xfb"
_USER_IOPL: Final = 3


class TrapPrivilege(WaitingInterrupts):
    """CPL 1 for a guest kernel that knows nothing of it."""

    def on_interrupt(self, number: int) -> None:
        """An exception, a software interrupt or an intercept."""
        software = self._cpu.take_exception()
        if self._in_real_mode:
            self._on_real_mode(number, software)
            return
        if not self._vcpu.holds:
            raise GuestEnded(Ending.ESCAPED)
        self._spend(1)
        if self._end_step() and number == Vector.DEBUG and not software:
            self._registers.debug_status = DR6_RESET
            self._traps[ExitKind.SHADOW] += 1
            self._after_emulation()
            return
        if software:
            self._on_software(number)
        elif number == PAUSED:
            self._on_pause()
        elif number >= VMEXIT:
            self._on_intercept()
        elif number == Vector.PROTECTION:
            self._on_protection(self._registers.error_code)
        else:
            self._traps[exit_kind(number, False)] += 1
            error = self._registers.error_code if number in WITH_ERROR_CODE else None
            self.deliver(Event(number, Cause.EXCEPTION, error))

    def _on_software(self, number: int) -> None:
        self._traps[ExitKind.INT] += 1
        self.deliver(Event(number, Cause.SOFTWARE))

    def _on_intercept(self) -> None:
        if self._registers.cpl == USER_RING:
            # Got there by a far return of the hardware: look away, then try again.
            self._traps[ExitKind.USER_OBSERVED] += 1
            self._vcpu.enter(USER_RING)
            return
        if not self._emulate_at_eip():
            raise GuestEnded(Ending.UNSUPPORTED, "an intercepted instruction is not understood")

    def _on_protection(self, error: int) -> None:
        """#GP: perhaps because of the kernel's ring, else the guest's own affair."""
        if self._registers.cpl == USER_RING:
            if self._vcpu.iopl == _USER_IOPL and self._skip_user_flags():
                return
        elif self._adopt(error) or self._emulate_at_eip():
            return
        self._traps[ExitKind.PROTECTION] += 1
        self.deliver(Event(Vector.PROTECTION, Cause.EXCEPTION, error))

    def _adopt(self, error: int) -> bool:
        """Whether a descriptor of the kernel's has just become usable: then try again."""
        if not error & 0xFFFC or error & 3:
            return False
        try:
            adopted = self._delivery.adopt(error)
        except PageFault:
            return False
        if adopted:
            self._traps[ExitKind.DESCRIPTOR] += 1
        return adopted

    def _emulate_at_eip(self) -> bool:
        instruction = self._instruction()
        return instruction is not None and self._emulate(instruction)

    def _emulate(self, instruction: TrappedInstruction, counted_as: ExitKind | None = None) -> bool:
        """Execute one instruction for the kernel; whether it was one that we know."""
        try:
            kind = emulate(self._context, instruction)
        except (Fault, PageFault) as fault:
            self._traps[ExitKind.PROTECTION] += 1
            self.deliver(self._event_of(fault))
            return True
        if kind is None:
            return False
        self._traps[counted_as or kind] += 1
        self._after_emulation()
        return True

    def _event_of(self, fault: Fault | PageFault) -> Event:
        """The event that the guest gets for a fault of ours in its name."""
        if isinstance(fault, PageFault):
            self._registers.cr2 = fault.va
            return Event.exception(Vector.PAGE_FAULT, fault.code)
        return Event.exception(fault.vector, fault.error)

    def _skip_user_flags(self) -> bool:
        """A process with IOPL 3 may execute cli and sti; they do nothing here."""
        window = self._window() or b""
        if window[:1] not in (_CLI, _STI):
            return False
        self._registers.eip += 1
        self._traps[ExitKind.USER_FLAGS] += 1
        return True

# SPDX-License-Identifier: MIT
"""How does an unmodified kernel run at CPL 1? By trap and emulate, from its first instruction on.

The guest kernel has CPL 1 and IOPL 0, and its page tables as they are: ring 1 is a supervisor's.
What is privileged faults; what is sensitive and would not fault is intercepted. Both end in
`on_interrupt`, are emulated, and leave the guest with what it would have seen at CPL 0. All other
events go to the guest's own handlers.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from vmipatch.emu.context import Context
from vmipatch.emu.cpu import VMEXIT, SvmExit
from vmipatch.emu.emulate import emulate
from vmipatch.emu.events import (
    WITH_ERROR_CODE,
    Cause,
    Event,
    Fault,
    Vector,
)
from vmipatch.emu.exits import ExitKind
from vmipatch.emu.loader import Boot, enter
from vmipatch.emu.memory import PAGE_LEN
from vmipatch.emu.paging import PageFault
from vmipatch.emu.port_rights import may_use_port
from vmipatch.emu.privilege import Privilege
from vmipatch.emu.registers import Flag, Segment, SegReg
from vmipatch.emu.report import Ending, GuestEnded
from vmipatch.emu.ring1 import Ring1Delivery
from vmipatch.emu.tlb import CachingMmu
from vmipatch.emu.undeliverable import deliver_or_end
from vmipatch.emu.virtual_cpu import KERNEL_RING, USER_RING, VirtualCpu
from vmipatch.isa.trapped import MAX_LEN, TrappedInstruction, take_apart

if TYPE_CHECKING:
    from vmipatch.emu.machine import Machine

UNPRIVILEGED: Final = frozenset(
    {
        SvmExit.PUSHF, SvmExit.POPF, SvmExit.IRET, SvmExit.GDTR_READ, SvmExit.IDTR_READ,
        SvmExit.LDTR_READ, SvmExit.TR_READ, SvmExit.SMSW,
    }
)  # fmt: skip
"""What CPL 1 would let pass, and wrongly."""

_CLI, _STI = b"\xfa", b"\xfb"
_VM: Final = int(Flag.VM)
_USER_IOPL: Final = 3
_DPL_1: Final = 1 << 13
_PATIENCE: Final = 10_000
"""Exits after which the guest must let the machine have a look."""
_STORM_NS: Final = 1_000_000
"""How long so many exits take."""


class TrapPrivilege(Privilege):
    """CPL 1 for a guest kernel that knows nothing of it."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self._cpu = machine.cpu
        self._registers = machine.cpu.registers
        self._pic = machine.board.interrupts
        self._mmu = CachingMmu(machine.memory, self._registers)
        self._vcpu = VirtualCpu(self._registers, self._mmu)
        self._delivery = Ring1Delivery(self._vcpu)
        self._context = Context(self._cpu, self._mmu, self._vcpu, self._delivery, machine.on_cpuid)
        self._traps: Counter[str] = machine.statistics.traps
        self._pending = False
        """Whether a device asks for an interrupt."""
        self._last_ns = -1
        self._patience = _PATIENCE

    def start(self, boot: Boot) -> None:
        """Enter the kernel as a boot loader does, but for its ring."""
        registers, vcpu = self._registers, self._vcpu
        enter(registers, boot)
        # Linux 2.6.21 to 2.6.23 look into the CS that they find: another ring than 0 means to them
        # that a hypervisor of another kind has prepared everything. SS tells the truth.
        for which, ring in ((SegReg.CS, 0), (SegReg.SS, KERNEL_RING)):
            segment = registers.segment(which)
            selector, rights = segment.selector | ring, segment.attributes | _DPL_1
            registers.set_segment(which, replace(segment, selector=selector, attributes=rights))
        vcpu.load_task(registers.tr)
        self._cpu.forbid_ring0()
        self._observe(True)
        vcpu.enter(KERNEL_RING)

    def on_interrupt(self, number: int) -> None:
        """An exception, a software interrupt or an intercept."""
        software = self._cpu.take_exception()
        if not self._vcpu.holds:
            raise GuestEnded(Ending.ESCAPED)
        self._spend(1)
        if software:
            self._on_software(number)
        elif number >= VMEXIT:
            self._on_intercept()
        elif number == Vector.PROTECTION:
            self._on_protection(self._registers.error_code)
        else:
            is_fault = number == Vector.PAGE_FAULT
            self._traps[ExitKind.PAGE_FAULT if is_fault else ExitKind.EXCEPTION] += 1
            error = self._registers.error_code if number in WITH_ERROR_CODE else None
            self.deliver(Event(number, Cause.EXCEPTION, error))

    def deliver(self, event: Event) -> None:
        """Let the guest's handler run next, at CPL 1."""
        self.machine.delivered(event)
        deliver_or_end(self._delivery, event)

    def may_use_port(self, port: int, size: int) -> bool:
        """The kernel may; a process by virtual IOPL and the bitmap of the guest's TSS."""
        vcpu = self._vcpu
        if self._registers.cpl != USER_RING or vcpu.iopl == _USER_IOPL:
            return True
        return may_use_port(vcpu.task, self._mmu, port, size)

    def interrupts_enabled(self) -> bool:
        """Virtual IF."""
        return self._vcpu.interrupts_enabled

    @property
    def task(self) -> Segment:
        """What the guest reads back."""
        return self._vcpu.task

    def before_devices(self) -> None:
        """Interrupts are acknowledged when they are delivered: nothing is owed."""

    def after_devices(self) -> None:
        """Note whether an interrupt waits; leave the running code if it can be taken."""
        self._note_pending()
        if self._pending and self._vcpu.interrupts_enabled:
            self._cpu.stop()

    def before_run(self) -> None:
        """The CPU is about to run again: wait if the guest does, then deliver what waits."""
        if not self._vcpu.holds:
            raise GuestEnded(Ending.ESCAPED)
        if self._registers.raw_eflags & _VM:
            raise GuestEnded(Ending.UNSUPPORTED, "a return to virtual 8086 mode")
        self._let_time_pass()
        if self._context.halted:
            self._wait()
        if not self._pending or not self._vcpu.interrupts_enabled:
            return
        if self._context.shadow_va == self._registers.eip:
            self._context.shadow_va = None
            clock = self.machine.clock
            clock.at(clock.now_ns, lambda: None)  # one block, then here again
        else:
            self._deliver_pending()

    def _spend(self, exits: int) -> None:
        """Take the host's time of so many exits from what the guest has before its next break."""
        self._patience -= exits
        if self._patience <= 0:
            self._cpu.stop()

    def _let_time_pass(self) -> None:
        """A guest that faults for ever executes nothing: its time has to go on all the same."""
        clock = self.machine.clock
        if self._patience <= 0 or clock.now_ns == self._last_ns:
            clock.pass_ns(_STORM_NS)
        self._last_ns = clock.now_ns
        self._patience = _PATIENCE

    def _wait(self) -> None:
        self._context.halted = False
        if self._pending and self._vcpu.interrupts_enabled:
            return
        self.machine.idle()
        self._note_pending()

    def _observe(self, wanted: bool) -> None:
        """Intercept in the kernel what CPL 1 lets pass, or let it pass."""
        self._vcpu.observed = wanted
        self._cpu.intercept(UNPRIVILEGED if wanted else frozenset())

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

    def _instruction(self) -> TrappedInstruction | None:
        """The sensitive instruction at EIP, if it is one."""
        window = self._window()
        return None if window is None else take_apart(window)

    def _window(self) -> bytes | None:
        """The bytes at EIP, as many as an instruction can have."""
        mmu, va = self._mmu, self._registers.code_va
        try:
            if va & (PAGE_LEN - 1) <= PAGE_LEN - MAX_LEN:
                return mmu.memory.read(mmu.translate(va), MAX_LEN)
        except PageFault:
            return None
        return mmu.peek(va, MAX_LEN)

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
        """What the guest gets for a fault of ours in its name."""
        if isinstance(fault, PageFault):
            self._registers.cr2 = fault.va
            return Event.exception(Vector.PAGE_FAULT, fault.code)
        return Event.exception(fault.vector, fault.error)

    def _after_emulation(self) -> None:
        """An instruction may have let an interrupt in."""
        if not self._pending or not self._vcpu.interrupts_enabled or self._context.halted:
            return
        if self._context.shadow_va == self._registers.eip:
            self._cpu.stop()
        else:
            self._deliver_pending()

    def _deliver_pending(self) -> None:
        """Take the interrupt that waits."""
        line = self._pic.pending_line()
        if line is not None:
            vector = self._pic.acknowledge(line)
            self.machine.statistics.lines[line] += 1
            self.deliver(Event(vector, Cause.EXTERNAL))
        self._note_pending()

    def _note_pending(self) -> None:
        self._pending = self._pic.pending_line() is not None
        self._vcpu.page.pending = self._pending or self._vcpu.iopl != 0

    def _skip_user_flags(self) -> bool:
        """A process with IOPL 3 may execute cli and sti; they do nothing here."""
        window = self._window() or b""
        if window[:1] not in (_CLI, _STI):
            return False
        self._registers.eip += 1
        self._traps[ExitKind.USER_FLAGS] += 1
        return True

# SPDX-License-Identifier: MIT
"""Which ring does a guest kernel get under the hypervisor? Ring 1, but in real mode.

Processor state, ports, the start of processors, and the time that exits take: what all kernels at
CPL 1 have in common, whether they know of it or not.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Final

from vmipatch.emu.hypervisor.context import Context
from vmipatch.emu.hypervisor.exits import ExitKind, exit_kind
from vmipatch.emu.hypervisor.real_mode import enter_protected_mode, written_cr0
from vmipatch.emu.hypervisor.ring1 import Ring1Delivery
from vmipatch.emu.hypervisor.virtual_cpu import KERNEL_RING, USER_RING, VirtualCpu
from vmipatch.emu.loader import Boot, enter
from vmipatch.emu.parts import MachineParts
from vmipatch.emu.privilege import STORM_NS, Privilege
from vmipatch.emu.processor.debug_registers import NO_BREAKPOINTS
from vmipatch.emu.processor.intercepts import VMEXIT, SvmExit
from vmipatch.emu.processor.memory import PAGE_LEN
from vmipatch.emu.processor.outer_kernel import OuterKernel
from vmipatch.emu.processor.paging import PageFault
from vmipatch.emu.processor.pause import skip_pause
from vmipatch.emu.processor.port_rights import may_use_port
from vmipatch.emu.processor.segment import SegmentState, SegReg
from vmipatch.emu.processor.startup import start_up
from vmipatch.emu.processor.tlb import CachingMmu
from vmipatch.isa.trapped import MAX_LEN, TrappedInstruction, take_apart

UNPRIVILEGED: Final = frozenset(
    {
        SvmExit.PUSHF, SvmExit.POPF, SvmExit.IRET, SvmExit.GDTR_READ, SvmExit.IDTR_READ,
        SvmExit.LDTR_READ, SvmExit.TR_READ, SvmExit.SMSW,
    }
)  # fmt: skip
"""Instructions that CPL 1 would let pass, and wrongly."""

_USER_IOPL: Final = 3
_DPL_1: Final = 1 << 13
PAUSED: Final = VMEXIT + SvmExit.PAUSE
_PATIENCE: Final = 10_000
"""Exits after which the guest must let the machine have a look."""


class Deprivileged(Privilege):
    """CPL 1 for a guest kernel."""

    def __init__(self, parts: MachineParts) -> None:
        super().__init__(parts)
        self._cpu = parts.cpu
        self._registers = parts.cpu.registers
        self._pic = parts.local.interrupts
        self._apic = parts.local.apic
        outer = OuterKernel()
        self._mmu = CachingMmu(parts.memory, self._registers, outer)
        self._vcpu = VirtualCpu(self._registers, self._mmu, outer)
        self._delivery = Ring1Delivery(self._vcpu)
        self._context = Context(
            self._cpu,
            self._mmu,
            self._vcpu,
            self._delivery,
            parts.identify,
            parts.clock.read_tsc,
            parts.load_breakpoints,
        )
        self._traps: Counter[str] = parts.statistics.traps
        self._pending = False
        """Whether a device asks for an interrupt."""
        self._stepping = False
        """Whether the CPU executes one instruction only, as an interrupt waits after it."""
        self._waits = False
        """Whether the guest has been waiting for one."""
        self._in_real_mode = False
        """Whether the processor has begun by STARTUP and not left real mode yet."""
        self._last_ns = -1
        self._vcpu.outer.patience = _PATIENCE

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

    def may_use_port(self, port: int, size: int) -> bool:
        """The kernel may; a process by virtual IOPL and the bitmap of the guest's TSS."""
        vcpu = self._vcpu
        if self._registers.cpl != USER_RING or vcpu.iopl == _USER_IOPL:
            return True
        return may_use_port(vcpu.task, self._mmu, port, size)

    @property
    def task(self) -> SegmentState:
        """The task register as the guest reads it back."""
        return self._vcpu.task

    @property
    def is_hardware(self) -> bool:
        """Always, but in real mode and while the CPU makes one step."""
        return not self._in_real_mode and not self._stepping

    @property
    def outer(self) -> OuterKernel:
        """The kernel at CPL 1."""
        return self._vcpu.outer

    def count_answered(self, count: int) -> None:
        """Count calls that were answered without Python likewise."""
        self._traps[ExitKind.HYPERCALL_CALL] += count

    def start_up(self, page: int) -> None:
        """Begin in real mode, at CPL 0: there are no rings before protected mode."""
        start_up(self._registers, page)
        self._in_real_mode = True
        self._pending = self._waits = False
        self._context.reset()
        self._vcpu.reset()
        self.parts.load_breakpoints(self._vcpu.debug)
        self._mmu.forget()
        self._cpu.intercept(frozenset({SvmExit.CR0_WRITE}))
        self._cpu.forbid_ring0(False)

    def switch_out(self) -> None:
        """Nothing of this processor is anywhere but in its registers, and breakpoints."""
        if self._vcpu.has_breakpoints:
            self.parts.load_breakpoints(NO_BREAKPOINTS)

    def switch_in(self) -> None:
        """The guard of the ring is the engine's: as this processor needs it."""
        self._cpu.forbid_ring0(not self._in_real_mode)
        if self._vcpu.has_breakpoints:
            self.parts.load_breakpoints(self._vcpu.debug)
        self._mmu.forget()

    def _on_real_mode(self, number: int, software: bool) -> None:
        """The write of CR0 that switches protected mode on; nothing else is served."""
        if number == PAUSED:
            self._on_pause()
            return
        cr0 = written_cr0(number, software, self._window() or b"", self._registers)
        if cr0 is not None:
            self._leave_real_mode(cr0)
            self._cpu.stop()

    def _leave_real_mode(self, cr0: int) -> None:
        """Protected mode begins in ring 1, with the segments that real mode had: see SDM, 9.9.1."""
        enter_protected_mode(self._cpu, cr0)
        self._in_real_mode = False
        self._vcpu.load_task(self._registers.tr)
        self._cpu.forbid_ring0()
        self._observe(True)
        self._vcpu.enter(KERNEL_RING)
        self._mmu.forget()

    def _spend(self, exits: int) -> None:
        """Take the host's time of so many exits from what the guest has before its next break."""
        outer = self._vcpu.outer
        outer.patience -= exits
        if outer.patience <= 0:
            self._cpu.stop()

    def _let_time_pass(self) -> None:
        """A guest that faults for ever executes nothing: its time has to go on all the same."""
        clock = self.parts.clock
        outer = self._vcpu.outer
        if outer.patience <= 0 or clock.now_ns == self._last_ns:
            clock.pass_ns(STORM_NS)
        self._last_ns = clock.now_ns
        outer.patience = _PATIENCE

    def _observe(self, wanted: bool) -> None:
        """Intercept in the kernel what CPL 1 lets pass, or let it pass."""
        exits = UNPRIVILEGED if wanted else frozenset()
        if self.parts.pause is not None:
            exits |= {SvmExit.PAUSE}
        self._vcpu.observed = bool(exits)
        self._cpu.intercept(exits)

    def _on_pause(self) -> None:
        """The guest waits for another processor."""
        assert self.parts.pause is not None, "intercepted with several processors only"
        skip_pause(self._registers, self._mmu)
        self.parts.pause()

    def _window(self) -> bytes | None:
        """The bytes at EIP, as many as an instruction can have."""
        mmu, va = self._mmu, self._registers.code_va
        try:
            if va & (PAGE_LEN - 1) <= PAGE_LEN - MAX_LEN:
                return mmu.memory.read(mmu.translate(va), MAX_LEN)
        except PageFault:
            return None
        return mmu.peek(va, MAX_LEN)

    def count_delivered(self, vector: int, is_software: bool, count: int) -> None:
        """Count what the CPU has delivered by itself as the exits that it is."""
        self._traps[exit_kind(vector, is_software)] += count

    def _instruction(self) -> TrappedInstruction | None:
        """The sensitive instruction at EIP, if it is one."""
        window = self._window()
        return None if window is None else take_apart(window)

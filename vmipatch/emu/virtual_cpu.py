# SPDX-License-Identifier: MIT
"""What does the guest believe its CPU to be? The registers that CPL 1 takes away from it.

The CPU really has IOPL 0 and IF set while the kernel runs. Its task register names a segment
without room for a stack, so that a call gate cannot find one for a lower ring. What the guest
has loaded is kept here, and is what it reads back.
"""

from __future__ import annotations

from typing import Final

from vmipatch.emu.paging import Mmu
from vmipatch.emu.registers import NULL_SEGMENT, Flag, HFlag, RegisterFile, Segment
from vmipatch.emu.shared_page import SharedPage

KERNEL_RING: Final = 1
USER_RING: Final = 3
_IDLE_TSS = 0x8900
"""Present and, for Unicorn's sake, not busy: it aborts the process over any other type."""
_IDLE_TSS_VA = 0xFFFFF000
"""IRET with NT set reads a selector here, whatever the limit is: a place that processes, unlike
page 0, never have for their own."""
# Plain numbers: & with an IntFlag takes a microsecond.
_IF, _IOPL, _GUEST = int(Flag.IF), int(Flag.IOPL), int(HFlag.GUEST)
_VIRTUAL = _IF | _IOPL
_NEVER_LOADED = int(_VIRTUAL | Flag.VM | Flag.RF)
_DR_COUNT = 8
_DR6_RESET, _DR7_RESET = 0xFFFF0FF0, 0x400


class VirtualCpu:
    """The privileged state of one CPU, as its kernel sees it."""

    def __init__(self, registers: RegisterFile, mmu: Mmu) -> None:
        self.registers = registers
        self.mmu = mmu
        self.page = SharedPage()
        self.iopl = 0
        self.task = NULL_SEGMENT
        self.debug = [0] * _DR_COUNT
        self.debug[6], self.debug[7] = _DR6_RESET, _DR7_RESET
        self.observed = False
        """Whether instructions that CPL 1 lets pass are intercepted in the kernel."""
        self.load_task(NULL_SEGMENT)

    @property
    def interrupts_enabled(self) -> bool:
        """Whether an external interrupt is welcome: by virtual IF, and always in user code."""
        return self.registers.cpl == USER_RING or self.page.interrupts_enabled

    @property
    def flags(self) -> int:
        """EFLAGS as the guest is to see them."""
        flags = self.registers.eflags & ~_VIRTUAL | self.iopl << 12
        return flags | _IF if self.interrupts_enabled else flags

    def load_flags(self, value: int, ring: int) -> None:
        """What a kernel's `popf` or `iret` to `ring` does to EFLAGS, IF and IOPL included."""
        self.page.interrupts_enabled = bool(value & _IF)
        self.iopl = value >> 12 & 3
        self.load_real_flags(value, ring)

    def load_real_flags(self, value: int, ring: int) -> None:
        """EFLAGS but for IF, IOPL, VM and RF, which stay as they must be in `ring`."""
        self.registers.eflags = value & ~_NEVER_LOADED | _IF | self._real_iopl(ring)

    def enter(self, ring: int) -> None:
        """Take the privilege of `ring`; only the kernel is observed."""
        registers = self.registers
        registers.cpl = ring
        hflags = registers.hflags
        if self.observed and ring != USER_RING:
            registers.hflags = hflags | _GUEST
        else:
            registers.hflags = hflags & ~_GUEST
        registers.raw_eflags = registers.raw_eflags & ~_IOPL | _IF | self._real_iopl(ring)
        registers.refresh()

    def load_task(self, segment: Segment) -> None:
        """Load the task register: the guest's, and ours that Unicorn sees."""
        self.task = segment
        self.registers.tr = Segment(segment.selector, _IDLE_TSS_VA, 0, _IDLE_TSS)

    def show(self) -> None:
        """Bring the shared page up to date with the control registers and tables."""
        self.page.show(self.registers, self.task.selector)

    @property
    def holds(self) -> bool:
        """The promise of the hypervisor: not CPL 0, and the task register is ours."""
        registers = self.registers
        return registers.cpl != 0 and registers.task_limit == 0

    def _real_iopl(self, ring: int) -> int:
        return self.iopl << 12 if ring == USER_RING else 0

# SPDX-License-Identifier: MIT
"""What does the guest believe its CPU to be? The registers that CPL 1 takes away from it.

The CPU really has IOPL 0 and IF set while the kernel runs. Its task register names a segment
without room for a stack, so that a call gate cannot find one for a lower ring. What the guest
has loaded is kept here, and is what it reads back.
"""

from __future__ import annotations

from typing import Final

from vmipatch.emu.hypervisor.shared_page import SharedPage
from vmipatch.emu.processor.bits import Flag, HFlag
from vmipatch.emu.processor.debug_registers import DR7, ENABLED, NO_BREAKPOINTS
from vmipatch.emu.processor.outer_kernel import OuterKernel
from vmipatch.emu.processor.paging import Mmu
from vmipatch.emu.processor.registers import RegisterFile
from vmipatch.emu.processor.segment import NULL_SEGMENT, SegmentState

KERNEL_RING: Final = 1
USER_RING: Final = 3
_IDLE_TSS = 0x8900
"""Present and, for Unicorn's sake, not busy: it aborts the process over any other type."""
_IDLE_TSS_VA = 0xFFFFF000
"""IRET with NT set reads a selector here, whatever the limit is: a place that processes, unlike
page 0, never have for their own."""
# Plain numbers: & with an IntFlag takes a microsecond.
_IF, _IOPL, _GUEST = int(Flag.IF), int(Flag.IOPL), int(HFlag.GUEST)
_RF = int(Flag.RF)
_VIRTUAL = _IF | _IOPL
_NEVER_LOADED = int(_VIRTUAL | Flag.VM | Flag.RF)


class VirtualCpu:
    """The privileged state of one CPU, as its kernel sees it."""

    def __init__(self, registers: RegisterFile, mmu: Mmu, outer: OuterKernel) -> None:
        self.registers = registers
        self.mmu = mmu
        self.outer = outer
        """The same, as far as the delivery without Python needs it."""
        self.debug = list(NO_BREAKPOINTS)
        self.reset()
        self.load_task(NULL_SEGMENT)

    def reset(self) -> None:
        """As after power-on and INIT, but for the task register."""
        self.page = SharedPage()
        self.iopl = 0
        self.debug[:] = NO_BREAKPOINTS
        self.observed = False

    @property
    def page(self) -> SharedPage:
        """The page that hypervisor and guest share, or will."""
        return self._page

    @page.setter
    def page(self, page: SharedPage) -> None:
        self._page = page
        self.outer.page_va = page.va

    @property
    def iopl(self) -> int:
        """Virtual IOPL."""
        return self._iopl

    @iopl.setter
    def iopl(self, iopl: int) -> None:
        self._iopl = iopl
        self.outer.iopl = iopl << 12

    @property
    def observed(self) -> bool:
        """Whether instructions that CPL 1 lets pass are intercepted in the kernel."""
        return self._observed

    @observed.setter
    def observed(self, observed: bool) -> None:
        self._observed = observed
        self.outer.entered = _GUEST if observed else 0

    @property
    def has_breakpoints(self) -> bool:
        """Whether the guest has switched one on."""
        return bool(self.debug[DR7] & ENABLED)

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
        """Change EFLAGS as a kernel's `popf` or `iret` to `ring` does, IF and IOPL included."""
        self.page.interrupts_enabled = bool(value & _IF)
        self.iopl = value >> 12 & 3
        self.load_real_flags(value, ring)

    def resume_at_breakpoint(self, flags: int) -> None:
        """IRET loads RF too, with which the next instruction has no breakpoint."""
        self.registers.raw_eflags |= flags & _RF

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

    def load_task(self, segment: SegmentState) -> None:
        """Load the task register: the guest's, and ours that Unicorn sees."""
        self.task = segment
        self.outer.task_base, self.outer.task_limit = segment.base, segment.limit
        self.registers.tr = SegmentState(segment.selector, _IDLE_TSS_VA, 0, _IDLE_TSS)

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

# SPDX-License-Identifier: MIT
"""How does an event reach a kernel that runs at CPL 1? Through its own IDT, one ring further out.

The guest's tables stay as they are, in its own memory: wherever they say ring 0, ring 1 is meant.
So that segments can be loaded without our help, DPL 0 becomes DPL 1 in a descriptor of the guest's
the first time that the CPU refuses it (`adopt`). No copy out of the guest's reach could take the
table's place: the CPU reads descriptors through the guest's page tables, and kernels write segments
of threads into the table at each switch. Nothing depends on what stands there, though: whatever a
descriptor says, the block counter lets no instruction of the guest execute at CPL 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from vmipatch.emu.hypervisor.virtual_cpu import KERNEL_RING, USER_RING, VirtualCpu
from vmipatch.emu.processor.debug_registers import DR6, DR6_CAUSES, DR6_RESET
from vmipatch.emu.processor.events import Cause, Delivery, Descriptor, Event, Fault, Vector
from vmipatch.emu.processor.segment import SegmentState

_CODE_OR_DATA = 0x10
_CODE = 0x18
_CONFORMING_CODE = 0x1C
_WRITABLE_DATA = 0x12
_DPL_1 = 1 << 13
_IN_IDT = 2


@dataclass(frozen=True, slots=True)
class GuestDescriptor(Descriptor):
    """A descriptor as the guest means it; in a segment register, as it really runs."""

    @property
    def dpl(self) -> int:
        """0 for the kernel's, whatever ring that has become."""
        level = self.high >> 13 & 3
        return 0 if level == KERNEL_RING else level

    @property
    def is_conforming(self) -> bool:
        """Code that runs in its caller's ring."""
        return self.type & _CONFORMING_CODE == _CONFORMING_CODE

    @property
    def is_code(self) -> bool:
        """Code of either kind."""
        return self.type & _CODE == _CODE

    @property
    def is_stack(self) -> bool:
        """Data that can be written to."""
        return self.type & (_CODE | 2) == _WRITABLE_DATA

    def segment(self, selector: int) -> SegmentState:
        """The register's content: DPL 1 in place of 0."""
        high = self.high if self.dpl or self.is_conforming else self.high | _DPL_1
        return SegmentState(selector, self.base, self.limit, high)


class Ring1Delivery(Delivery):
    """Delivery to a deprivileged kernel."""

    def __init__(self, vcpu: VirtualCpu) -> None:
        super().__init__(vcpu.registers, vcpu.mmu)
        self._vcpu = vcpu

    def deliver(self, event: Event) -> None:
        """Change registers and stack so that the handler runs next, at CPL 1.

        Raises TripleFault and UnsupportedGate.
        """
        vcpu = self._vcpu
        if event.vector == Vector.PAGE_FAULT:
            vcpu.page.show_page_fault(self.registers.cr2)
        elif event.vector == Vector.DEBUG and event.cause is Cause.EXCEPTION:
            vcpu.debug[DR6] |= self.registers.debug_status & DR6_CAUSES
            self.registers.debug_status = DR6_RESET
        if self.registers.cpl == USER_RING:
            vcpu.page.interrupts_enabled = True  # as they always are in user code
        super().deliver(event)
        vcpu.enter(self.registers.cpl)

    def flags_to_push(self) -> int:
        """EFLAGS with virtual IF and IOPL."""
        return self._vcpu.flags

    def ring_of(self, dpl: int) -> int:
        """The kernel's ring is 1."""
        return dpl or KERNEL_RING

    def mask_interrupts(self) -> None:
        """An interrupt gate clears virtual IF."""
        self._vcpu.page.interrupts_enabled = False

    def descriptor(self, selector: int, vector: Vector, extra: int = 0) -> GuestDescriptor:
        """Descriptor of a selector. Raises Fault(vector) outside of its table, and PageFault."""
        found = super().descriptor(selector, vector, extra)
        return GuestDescriptor(found.low, found.high)

    def adopt(self, selector: int) -> bool:
        """Give DPL 1 to the kernel's descriptor of `selector`; whether that was to be done."""
        try:
            found = self.descriptor(selector, Vector.PROTECTION)
        except Fault:
            return False
        level = found.high >> 13 & 3
        if not found.type & _CODE_OR_DATA or level or found.is_conforming:
            return False
        self.mmu.write_u32(self._place_va(selector) + 4, found.high | _DPL_1)
        return True

    def _place_va(self, selector: int) -> int:
        registers = self.registers
        base = registers.ldtr.base if selector & 4 else registers.gdtr[0]
        return base + (selector & 0xFFF8) & 0xFFFFFFFF

    def _inner_stack(self, level: int, ring: int, extra: int) -> tuple[SegmentState, int]:
        """Stack of the kernel, by the TSS that the guest has loaded."""
        task = self._vcpu.task
        if 8 * level + 11 > task.limit:
            raise Fault(Vector.TSS, task.selector & 0xFFFC | extra)
        esp = self.mmu.read_u32(task.base + 4 + 8 * level)
        selector = self.mmu.read_u32(task.base + 8 + 8 * level) & 0xFFFF
        stack = self.descriptor(selector, Vector.TSS, extra)
        if not stack.is_stack or stack.dpl != level or selector & 3 not in (level, ring):
            raise Fault(Vector.TSS, selector & 0xFFFC | extra)
        if not stack.is_present:
            raise Fault(Vector.STACK, selector & 0xFFFC | extra)
        return stack.segment(selector & ~3 | ring), esp

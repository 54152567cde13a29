# SPDX-License-Identifier: MIT
"""What do loads and stores of descriptor-table registers do for a kernel at CPL 1?

GDTR, IDTR and LDTR hold what the guest loaded: the CPU reads descriptors there, the hypervisor
judges them when they are used. The task register alone is kept from it (`virtual_cpu`).
Source: Intel SDM volume 2, LGDT, LLDT, LTR, SGDT, SLDT, STR.
"""

from __future__ import annotations

from typing import Final

from vmipatch.emu.hypervisor.context import Context
from vmipatch.emu.hypervisor.ring1 import GuestDescriptor
from vmipatch.emu.processor.events import Fault, Vector
from vmipatch.emu.processor.segment import SegmentState
from vmipatch.isa.trapped import TrappedInstruction

_LDT: Final = 0x02
_AVAILABLE_TSS: Final = (0x01, 0x09)
_BUSY: Final = 1 << 9
_IMAGE_LEN: Final = 6
_NARROW_BASE: Final = 0xFFFFFF


def lgdt(context: Context, instruction: TrappedInstruction) -> None:
    """LGDT."""
    set_gdt(context, _table(context, instruction))


def lidt(context: Context, instruction: TrappedInstruction) -> None:
    """LIDT."""
    set_idt(context, _table(context, instruction))


def lldt(context: Context, instruction: TrappedInstruction) -> None:
    """LLDT."""
    set_ldt(context, context.read_operand(instruction))


def ltr(context: Context, instruction: TrappedInstruction) -> None:
    """LTR."""
    set_task(context, context.read_operand(instruction))


def sgdt(context: Context, instruction: TrappedInstruction) -> None:
    """SGDT."""
    _store_table(context, instruction, context.registers.gdtr)


def sidt(context: Context, instruction: TrappedInstruction) -> None:
    """SIDT."""
    _store_table(context, instruction, context.registers.idtr)


def sldt(context: Context, instruction: TrappedInstruction) -> None:
    """SLDT."""
    context.write_operand(instruction, context.registers.ldtr.selector)


def store_task(context: Context, instruction: TrappedInstruction) -> None:
    """STR."""
    context.write_operand(instruction, context.vcpu.task.selector)


def read_image(context: Context, va: int) -> tuple[int, int]:
    """Base and limit from the six bytes at `va`. Raises PageFault."""
    image = context.mmu.read(va, _IMAGE_LEN)
    return int.from_bytes(image[2:], "little"), int.from_bytes(image[:2], "little")


def set_gdt(context: Context, table: tuple[int, int]) -> None:
    """Load GDTR with base and limit."""
    context.registers.gdtr = table
    context.vcpu.show()


def set_idt(context: Context, table: tuple[int, int]) -> None:
    """Load IDTR with base and limit."""
    context.registers.idtr = table
    context.vcpu.show()


def set_ldt(context: Context, selector: int) -> None:
    """Load LDTR from the GDT. Raises Fault, PageFault."""
    segment = SegmentState(selector, 0, 0, 0)
    if selector & 0xFFFC:
        descriptor = _system(context, selector, (_LDT,))
        segment = descriptor.segment(selector)
    context.registers.ldtr = segment
    context.vcpu.show()


def set_task(context: Context, selector: int) -> None:
    """Load the task register from the GDT, and mark the TSS as busy. Raises Fault, PageFault."""
    if not selector & 0xFFFC:
        raise Fault(Vector.PROTECTION, 0)
    descriptor = _system(context, selector, _AVAILABLE_TSS)
    place_va = context.registers.gdtr[0] + (selector & 0xFFF8) + 4 & 0xFFFFFFFF
    context.mmu.write_u32(place_va, descriptor.high | _BUSY)
    context.vcpu.load_task(descriptor.segment(selector))
    context.vcpu.show()


def _system(context: Context, selector: int, types: tuple[int, ...]) -> GuestDescriptor:
    """The system descriptor that `selector` names, which must be of one of `types`."""
    if selector & 4:
        raise Fault(Vector.PROTECTION, selector & 0xFFFC)
    descriptor = context.delivery.descriptor(selector, Vector.PROTECTION)
    if descriptor.type not in types:
        raise Fault(Vector.PROTECTION, selector & 0xFFFC)
    if not descriptor.is_present:
        raise Fault(Vector.NOT_PRESENT, selector & 0xFFFC)
    return descriptor


def _table(context: Context, instruction: TrappedInstruction) -> tuple[int, int]:
    assert instruction.memory is not None, "the form has a memory operand"
    base, limit = read_image(context, context.linear(instruction.memory))
    return (base & _NARROW_BASE if instruction.operand_len == 2 else base), limit


def _store_table(context: Context, instruction: TrappedInstruction, table: tuple[int, int]) -> None:
    assert instruction.memory is not None, "the form has a memory operand"
    base, limit = table
    image = (limit & 0xFFFF).to_bytes(2, "little") + base.to_bytes(4, "little")
    context.write(context.linear(instruction.memory), image)

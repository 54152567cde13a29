# SPDX-License-Identifier: MIT
"""How does a kernel at CPL 1 return, and load its stack segment, as if it were at CPL 0?

A selector with RPL 0 means the kernel's ring. Source: Intel SDM volume 2, IRET, RET, MOV, LSS.
"""

from __future__ import annotations

from typing import Final

from vmipatch.emu.context import Context
from vmipatch.emu.events import Fault, Vector
from vmipatch.emu.registers import NULL_SEGMENT, Flag, Segment, SegReg
from vmipatch.emu.ring1 import GuestDescriptor
from vmipatch.emu.virtual_cpu import KERNEL_RING, USER_RING
from vmipatch.isa.trapped import TrappedInstruction

_NULL: Final = 0xFFFC
_VM, _NT = int(Flag.VM), int(Flag.NT)
_DATA_SEGMENTS: Final = (SegReg.ES, SegReg.DS, SegReg.FS, SegReg.GS)
_CONFORMING_CODE: Final = 0x1C


def iret(context: Context, instruction: TrappedInstruction) -> None:
    """IRET of a kernel: virtual IF and IOPL come from the frame."""
    return_by_frame(context, instruction.operand_len)


def return_by_frame(context: Context, width: int = 4, *, hardware: bool = False) -> None:
    """Return by the frame at ESP, of words of `width` bytes.

    `hardware`: as the CPU does it at CPL 1, virtual IF and IOPL untouched.
    Raises Fault and PageFault with everything as it was.
    """
    vcpu = context.vcpu
    eip, selector, flags = (context.peek(i * width, width) for i in range(3))
    if vcpu.registers.raw_eflags & _NT:
        raise Fault(Vector.TSS, vcpu.task.selector & _NULL)
    if flags & _VM and not hardware:
        raise Fault(Vector.PROTECTION, 0)  # vm86 is not modelled: the process alone fails
    if width == 2:
        flags |= vcpu.flags & ~0xFFFF
    ring = _return_far(context, eip, selector, 3 * width, width)
    if hardware:
        vcpu.load_real_flags(flags, ring)
    else:
        vcpu.load_flags(flags, ring)
    vcpu.enter(ring)


def retf(context: Context, instruction: TrappedInstruction) -> None:
    """RETF, with or without bytes to drop."""
    width = instruction.operand_len
    dropped = int.from_bytes(instruction.tail, "little")
    eip, selector = (context.peek(i * width, width) for i in range(2))
    ring = _return_far(context, eip, selector, 2 * width + dropped, width)
    if ring == USER_RING and dropped:
        context.drop(dropped)
    context.vcpu.enter(ring)


def mov_to_ss(context: Context, instruction: TrappedInstruction) -> None:
    """MOV SS, r/m16."""
    stack = _kernel_stack(context, context.read_operand(instruction))
    _load_stack(context, stack)


def pop_ss(context: Context, instruction: TrappedInstruction) -> None:
    """POP SS."""
    width = instruction.operand_len
    stack = _kernel_stack(context, context.peek(0, width) & 0xFFFF)
    context.drop(width)
    _load_stack(context, stack)


def lss(context: Context, instruction: TrappedInstruction) -> None:
    """LSS r32, m16:32."""
    assert instruction.memory is not None, "the form has a memory operand"
    width, va = instruction.operand_len, context.linear(instruction.memory)
    image = context.mmu.read(va, width + 2)
    offset = int.from_bytes(image[:width], "little")
    stack = _kernel_stack(context, int.from_bytes(image[width:], "little"))
    registers = context.registers
    if width == 2:
        offset |= registers.gpr(instruction.reg) & ~0xFFFF
    registers.set_gpr(instruction.reg, offset)
    _load_stack(context, stack)


def _return_far(context: Context, eip: int, selector: int, frame_len: int, width: int) -> int:
    """Load CS:EIP and, for a return to the user, what follows at `frame_len`: ESP and SS.

    Returns the ring; nothing has changed if it raises.
    """
    registers = context.registers
    ring = USER_RING if selector & 3 == USER_RING else KERNEL_RING
    code = _code(context, selector, ring)
    if eip > code.limit:
        raise Fault(Vector.PROTECTION, 0)
    if ring == KERNEL_RING:
        context.drop(frame_len)
    else:
        esp = context.peek(frame_len, width)
        stack = _user_stack(context, context.peek(frame_len + width, width) & 0xFFFF)
        registers.set_segment(SegReg.SS, stack)
        registers.esp = esp
        _hide_kernel_segments(context)
    registers.set_segment(SegReg.CS, code.segment(selector & 0xFFFC | ring))
    registers.eip = eip
    return ring


def _code(context: Context, selector: int, ring: int) -> GuestDescriptor:
    """The code segment to return to. Raises Fault as the CPU would."""
    selector &= 0xFFFF
    descriptor = context.delivery.descriptor(selector, Vector.PROTECTION)
    rpl = selector & 3
    if not descriptor.is_code or rpl == 2:
        raise Fault(Vector.PROTECTION, selector & _NULL)
    level = USER_RING if ring == USER_RING else 0
    wrong = descriptor.dpl > level if descriptor.is_conforming else descriptor.dpl != level
    if wrong:
        raise Fault(Vector.PROTECTION, selector & _NULL)
    if not descriptor.is_present:
        raise Fault(Vector.NOT_PRESENT, selector & _NULL)
    return descriptor


def _user_stack(context: Context, selector: int) -> Segment:
    descriptor = context.delivery.descriptor(selector, Vector.PROTECTION)
    levels = (selector & 3, descriptor.dpl)
    if not descriptor.is_stack or levels != (USER_RING, USER_RING):
        raise Fault(Vector.PROTECTION, selector & _NULL)
    if not descriptor.is_present:
        raise Fault(Vector.STACK, selector & _NULL)
    return descriptor.segment(selector)


def _kernel_stack(context: Context, selector: int) -> Segment:
    descriptor = context.delivery.descriptor(selector, Vector.PROTECTION)
    if not descriptor.is_stack or descriptor.dpl or selector & 3 > KERNEL_RING:
        raise Fault(Vector.PROTECTION, selector & _NULL)
    if not descriptor.is_present:
        raise Fault(Vector.STACK, selector & _NULL)
    return descriptor.segment(selector & _NULL | KERNEL_RING)


def _load_stack(context: Context, stack: Segment) -> None:
    context.registers.set_segment(SegReg.SS, stack)
    context.registers.refresh()
    context.begin_shadow()


def _hide_kernel_segments(context: Context) -> None:
    """The user must not keep data segments of the kernel."""
    registers = context.registers
    for which in _DATA_SEGMENTS:
        segment = registers.segment(which)
        conforming = segment.attributes >> 8 & _CONFORMING_CODE == _CONFORMING_CODE
        if segment.selector & _NULL and segment.dpl < USER_RING and not conforming:
            registers.set_segment(which, NULL_SEGMENT)

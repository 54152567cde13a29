# SPDX-License-Identifier: MIT
"""How does a kernel at CPL 1 return, and load its stack segment, as if it were at CPL 0?

A selector with RPL 0 means the kernel's ring. Source: Intel SDM volume 2, IRET, RET, MOV, LSS.
"""

from __future__ import annotations

from typing import Final

from vmipatch.emu.hypervisor.context import Context
from vmipatch.emu.hypervisor.ring1 import GuestDescriptor
from vmipatch.emu.hypervisor.virtual_cpu import KERNEL_RING, USER_RING
from vmipatch.emu.processor.bits import Flag
from vmipatch.emu.processor.events import Fault, Vector
from vmipatch.emu.processor.segment import NULL_SEGMENT, SegmentState, SegReg
from vmipatch.isa.trapped import TrappedInstruction

_NULL: Final = 0xFFFC
_VM, _NT, _IF = int(Flag.VM), int(Flag.NT), int(Flag.IF)
_DATA_SEGMENTS: Final = (SegReg.ES, SegReg.DS, SegReg.FS, SegReg.GS)
_CONFORMING_CODE: Final = 0x1C


def iret(context: Context, instruction: TrappedInstruction) -> None:
    """IRET of a kernel: virtual IF and IOPL come from the frame."""
    flags, ring = _take_frame(context, instruction.operand_len)
    context.vcpu.load_flags(flags, ring)
    context.vcpu.enter(ring)
    context.vcpu.resume_at_breakpoint(flags)


def hardware_iret(context: Context) -> None:
    """IRET as the CPU does it at CPL 1: virtual IF and IOPL stay."""
    flags, ring = _take_frame(context, 4)
    context.vcpu.load_real_flags(flags, ring)
    context.vcpu.enter(ring)
    context.vcpu.resume_at_breakpoint(flags)


def vmi_iret(context: Context) -> None:
    """The call of that name: virtual IF and a process's IOPL come from the frame."""
    flags, ring = _take_frame(context, 4)
    vcpu = context.vcpu
    vcpu.page.interrupts_enabled = bool(flags & _IF)
    if ring == USER_RING:
        vcpu.iopl = flags >> 12 & 3
    vcpu.load_real_flags(flags, ring)
    vcpu.enter(ring)
    vcpu.resume_at_breakpoint(flags)


def _take_frame(context: Context, width: int) -> tuple[int, int]:
    """Return by the frame at ESP, of words of `width` bytes, but for EFLAGS and CPL.

    These it returns. Raises Fault and PageFault with everything as it was.
    """
    vcpu = context.vcpu
    eip, selector, flags = (context.peek(i * width, width) for i in range(3))
    if vcpu.registers.raw_eflags & _NT:
        raise Fault(Vector.TSS, vcpu.task.selector & _NULL)
    if width == 2:
        flags |= vcpu.flags & ~0xFFFF
    if flags & _VM:
        raise Fault(Vector.PROTECTION, 0)  # vm86 is not modelled: the process alone fails
    ring = _return_far(context, eip, selector, 3 * width, width)
    context.end_nmi()
    return flags, ring


def enter_user(context: Context, eip: int, esp: int, code: int, stack: int) -> None:
    """Go on in user code, as SYSEXIT does. Raises Fault with everything as it was."""
    registers = context.registers
    segment = _code(context, code, USER_RING).segment(code)
    registers.set_segment(SegReg.SS, _user_stack(context, stack))
    registers.set_segment(SegReg.CS, segment)
    registers.esp, registers.eip = esp, eip
    _hide_kernel_segments(context)
    context.vcpu.enter(USER_RING)


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


def _user_stack(context: Context, selector: int) -> SegmentState:
    descriptor = context.delivery.descriptor(selector, Vector.PROTECTION)
    levels = (selector & 3, descriptor.dpl)
    if not descriptor.is_stack or levels != (USER_RING, USER_RING):
        raise Fault(Vector.PROTECTION, selector & _NULL)
    if not descriptor.is_present:
        raise Fault(Vector.STACK, selector & _NULL)
    return descriptor.segment(selector)


def _kernel_stack(context: Context, selector: int) -> SegmentState:
    descriptor = context.delivery.descriptor(selector, Vector.PROTECTION)
    if not descriptor.is_stack or descriptor.dpl or selector & 3 > KERNEL_RING:
        raise Fault(Vector.PROTECTION, selector & _NULL)
    if not descriptor.is_present:
        raise Fault(Vector.STACK, selector & _NULL)
    return descriptor.segment(selector & _NULL | KERNEL_RING)


def _load_stack(context: Context, stack: SegmentState) -> None:
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

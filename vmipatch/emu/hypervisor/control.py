# SPDX-License-Identifier: MIT
"""What do control, debug and model-specific registers do for a kernel at CPL 1?

Source: Intel SDM volume 3, 2.5 (control registers) and volume 2, MOV to and from control registers.
"""

from __future__ import annotations

from typing import Final

from vmipatch.emu.hypervisor.context import Context
from vmipatch.emu.processor.bits import ControlRegister, Cr0
from vmipatch.emu.processor.debug_registers import DR6, DR6_RESET, DR7, DR7_RESET
from vmipatch.emu.processor.events import Fault, Vector
from vmipatch.emu.report import Ending, GuestEnded
from vmipatch.isa.trapped import TrappedInstruction

_CR0_ET: Final = 1 << 4
_CR0_LOW: Final = 0xF
_PE, _TS, _PG = int(Cr0.PE), int(Cr0.TS), int(Cr0.PG)
CR4_KNOWN: Final = 0x7FF
"""VME to OSXMMEXCPT: bits of the CPU that is presented and its near relatives."""
EFER: Final = 0xC0000080
EFER_NXE: Final = 1 << 11
_DR_ALIASES: Final = {4: 6, 5: 7}
_DR_FIXED: Final = {DR6: DR6_RESET, DR7: DR7_RESET}
"""Bits that always read as 1 (Intel SDM volume 3, 18.2)."""


def read_control(context: Context, instruction: TrappedInstruction) -> None:
    """MOV r32, CRn."""
    registers = context.registers
    registers.set_gpr(instruction.rm, control_value(context, instruction.reg))


def write_control(context: Context, instruction: TrappedInstruction) -> None:
    """MOV CRn, r32."""
    set_control(context, instruction.reg, context.registers.gpr(instruction.rm))


def control_value(context: Context, number: int) -> int:
    """The guest's value of CR0, CR2, CR3 or CR4. Raises Fault for any other."""
    registers = context.registers
    match number:
        case ControlRegister.CR0:
            return registers.cr0
        case ControlRegister.CR2:
            return registers.cr2
        case ControlRegister.CR3:
            return registers.cr3
        case ControlRegister.CR4:
            return registers.cr4
    raise Fault(Vector.PROTECTION, 0)


def set_control(context: Context, number: int, value: int) -> None:
    """Write CR0, CR2, CR3 or CR4. Raises Fault for what the CPU refuses."""
    registers = context.registers
    match number:
        case ControlRegister.CR0:
            _set_cr0(context, value)
        case ControlRegister.CR2:
            registers.cr2 = value
        case ControlRegister.CR3:
            registers.cr3 = value
            context.mmu.forget()
            context.vcpu.page.show_page_tables(registers.cr3)
            return
        case ControlRegister.CR4:
            if value & ~CR4_KNOWN:
                raise Fault(Vector.PROTECTION, 0)
            registers.cr4 = value
        case _:
            raise Fault(Vector.PROTECTION, 0)
    context.mmu.forget()
    context.vcpu.show()


def _set_cr0(context: Context, value: int) -> None:
    registers = context.registers
    if value & _PG and not value & _PE:
        raise Fault(Vector.PROTECTION, 0)
    if not value & _PE:
        raise GuestEnded(Ending.UNSUPPORTED, "the guest wants to leave protected mode")
    context.paging_left = bool(registers.cr0 & ~value & _PG)
    registers.cr0 = value | _CR0_ET
    if context.paging_left:
        context.cpu.stop()


def lmsw(context: Context, instruction: TrappedInstruction) -> None:
    """LMSW: the low bits of CR0; PE can be set by it only."""
    old = context.registers.cr0
    low = context.read_operand(instruction) & _CR0_LOW | old & _PE
    set_control(context, ControlRegister.CR0, old & ~_CR0_LOW | low)


def smsw(context: Context, instruction: TrappedInstruction) -> None:
    """SMSW."""
    context.write_operand(instruction, context.registers.cr0)


def clts(context: Context, _: TrappedInstruction) -> None:
    """CLTS."""
    clear_task_switched(context)


def clear_task_switched(context: Context) -> None:
    """Clear CR0.TS."""
    context.registers.cr0 &= ~_TS
    context.vcpu.show()


def invlpg(context: Context, instruction: TrappedInstruction) -> None:
    """INVLPG."""
    assert instruction.memory is not None, "of a register it is another instruction"
    forget_page(context, context.linear(instruction.memory))


def forget_page(context: Context, va: int) -> None:
    """Forget the translation of an address."""
    context.mmu.forget()
    context.cpu.forget_page(va)


def flush_tlb(context: Context) -> None:
    """Forget all translations."""
    context.mmu.forget()
    context.cpu.flush_tlb()


def read_debug(context: Context, instruction: TrappedInstruction) -> None:
    """MOV r32, DRn."""
    context.registers.set_gpr(instruction.rm, debug_value(context, instruction.reg))


def write_debug(context: Context, instruction: TrappedInstruction) -> None:
    """MOV DRn, r32."""
    set_debug(context, instruction.reg, context.registers.gpr(instruction.rm))


def debug_value(context: Context, number: int) -> int:
    """A debug register; 4 and 5 are names of 6 and 7."""
    return context.vcpu.debug[_DR_ALIASES.get(number, number)]


def set_debug(context: Context, number: int, value: int) -> None:
    """Write a debug register; breakpoints are as all of them say then."""
    number = _DR_ALIASES.get(number, number)
    vcpu = context.vcpu
    had_breakpoints = vcpu.has_breakpoints
    vcpu.debug[number] = value | _DR_FIXED.get(number, 0)
    if number != DR6 and (had_breakpoints or vcpu.has_breakpoints):
        context.load_breakpoints(vcpu.debug)


def rdmsr(context: Context, _: TrappedInstruction) -> None:
    """RDMSR."""
    read_model_specific(context)


def wrmsr(context: Context, _: TrappedInstruction) -> None:
    """WRMSR."""
    write_model_specific(context)


def read_model_specific(context: Context) -> None:
    """EDX:EAX = register ECX; an unknown one is 0, as on bare Unicorn, unless it is refused."""
    registers = context.registers
    value = context.cpu.read_msr(_msr(context))
    registers.eax, registers.edx = value, value >> 32


def write_model_specific(context: Context) -> None:
    """Register ECX = EDX:EAX; of EFER, only no-execute: long mode and SVM are not the guest's."""
    registers = context.registers
    value = registers.edx << 32 | registers.eax
    number = _msr(context)
    if number == EFER and value & ~EFER_NXE:
        raise Fault(Vector.PROTECTION, 0)
    context.cpu.write_msr(number, value)


def _msr(context: Context) -> int:
    number = context.registers.ecx
    if number in context.cpu.refused_msrs:
        raise Fault(Vector.PROTECTION, 0)
    return number

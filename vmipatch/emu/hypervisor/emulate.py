# SPDX-License-Identifier: MIT
"""What does a sensitive instruction do for a kernel that believes in CPL 0? One function a form.

Instructions are found by the kind that vmipatch.isa.forms gives them. A function is entered with
EIP after the instruction and leaves all as it was if it raises Fault or PageFault. Returns and
loads of SS are in `returns`, reads of CS and SS in `selectors`, descriptor tables in `tables`,
control registers in `control`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vmipatch.emu.hypervisor import control, returns, selectors, tables
from vmipatch.emu.hypervisor.context import Context
from vmipatch.emu.hypervisor.exits import ExitKind
from vmipatch.emu.processor.bits import Flag
from vmipatch.emu.processor.events import Fault, Vector
from vmipatch.emu.processor.registers import MASK32
from vmipatch.isa.trapped import TrappedInstruction

_HIDDEN = int(Flag.VM | Flag.RF)
Action = Callable[[Context, TrappedInstruction], None]


@dataclass(frozen=True, slots=True)
class Emulation:
    """How one kind of instruction is counted and emulated."""

    exit: ExitKind
    action: Action


def _cli(context: Context, _: TrappedInstruction) -> None:
    context.vcpu.page.interrupts_enabled = False


def _sti(context: Context, _: TrappedInstruction) -> None:
    page = context.vcpu.page
    if not page.interrupts_enabled:
        page.interrupts_enabled = True
        context.begin_shadow()


def _hlt(context: Context, _: TrappedInstruction) -> None:
    context.halt()


def _pushf(context: Context, instruction: TrappedInstruction) -> None:
    context.push(context.vcpu.flags & ~_HIDDEN, instruction.operand_len)


def _popf(context: Context, instruction: TrappedInstruction) -> None:
    vcpu = context.vcpu
    value = context.peek(0, instruction.operand_len)
    if instruction.operand_len == 2:
        value |= vcpu.flags & ~0xFFFF
    context.drop(instruction.operand_len)
    vcpu.load_flags(value, context.registers.cpl)


def _cpuid(context: Context, _: TrappedInstruction) -> None:
    """For a HLT that stands for it: CPUID itself does not fault."""
    context.identify()


def _rdtsc(context: Context, _: TrappedInstruction) -> None:
    """With CR4.TSD it faults at CPL 1, though it would not at CPL 0."""
    now, registers = context.read_tsc(), context.registers
    registers.eax, registers.edx = now, now >> 32


def _nothing(_context: Context, _instruction: TrappedInstruction) -> None:
    """Caches are not modelled."""


def _missing(_context: Context, _instruction: TrappedInstruction) -> None:
    """The CPU that is presented does not have it, which comes before the privilege."""
    raise Fault(Vector.UNDEFINED, 0)


EMULATIONS: Final[dict[str, Emulation]] = {
    "cli": Emulation(ExitKind.CLI, _cli),
    "sti": Emulation(ExitKind.STI, _sti),
    "pushf": Emulation(ExitKind.PUSHF, _pushf),
    "popf": Emulation(ExitKind.POPF, _popf),
    "iret": Emulation(ExitKind.IRET, returns.iret),
    "hlt": Emulation(ExitKind.HLT, _hlt),
    "cpuid": Emulation(ExitKind.FALLBACK, _cpuid),
    "mov from cs": Emulation(ExitKind.FALLBACK, selectors.mov_from_cs),
    "mov from ss": Emulation(ExitKind.FALLBACK, selectors.mov_from_ss),
    "push cs": Emulation(ExitKind.FALLBACK, selectors.push_cs),
    "push ss": Emulation(ExitKind.FALLBACK, selectors.push_ss),
    "xsetbv": Emulation(ExitKind.PROTECTION, _missing),
    "mov from cr": Emulation(ExitKind.CR_READ, control.read_control),
    "mov to cr": Emulation(ExitKind.CR_WRITE, control.write_control),
    "lmsw": Emulation(ExitKind.CR_WRITE, control.lmsw),
    "clts": Emulation(ExitKind.CLTS, control.clts),
    "mov from dr": Emulation(ExitKind.DEBUG_REGISTER, control.read_debug),
    "mov to dr": Emulation(ExitKind.DEBUG_REGISTER, control.write_debug),
    "rdmsr": Emulation(ExitKind.MSR, control.rdmsr),
    "wrmsr": Emulation(ExitKind.MSR, control.wrmsr),
    "rdtsc": Emulation(ExitKind.TSC, _rdtsc),
    "rdtscp": Emulation(ExitKind.PROTECTION, _missing),
    "rdpmc": Emulation(ExitKind.PROTECTION, _missing),
    "invlpg": Emulation(ExitKind.INVLPG, control.invlpg),
    "invd": Emulation(ExitKind.CACHE, _nothing),
    "wbinvd": Emulation(ExitKind.CACHE, _nothing),
    "lgdt": Emulation(ExitKind.TABLE_LOAD, tables.lgdt),
    "lidt": Emulation(ExitKind.TABLE_LOAD, tables.lidt),
    "lldt": Emulation(ExitKind.TABLE_LOAD, tables.lldt),
    "ltr": Emulation(ExitKind.TABLE_LOAD, tables.ltr),
    "sgdt": Emulation(ExitKind.TABLE_STORE, tables.sgdt),
    "sidt": Emulation(ExitKind.TABLE_STORE, tables.sidt),
    "sldt": Emulation(ExitKind.TABLE_STORE, tables.sldt),
    "str": Emulation(ExitKind.TABLE_STORE, tables.store_task),
    "smsw": Emulation(ExitKind.TABLE_STORE, control.smsw),
    "mov to ss": Emulation(ExitKind.STACK_SEGMENT, returns.mov_to_ss),
    "pop ss": Emulation(ExitKind.STACK_SEGMENT, returns.pop_ss),
    "lss": Emulation(ExitKind.STACK_SEGMENT, returns.lss),
    "retf": Emulation(ExitKind.FAR_RETURN, returns.retf),
}
"""By kind of form. Every unprivileged form is here: what stays native of them becomes a HLT. CPUID
and reads of CS and SS are met in no other way, as neither a fault nor an intercept tells of them.
"""


def emulate(context: Context, instruction: TrappedInstruction) -> ExitKind | None:
    """Execute `instruction`, at EIP, as a CPU would at CPL 0; None if it is not known how.

    Raises Fault or PageFault with registers and memory as they were.
    """
    emulation = EMULATIONS.get(instruction.form.kind)
    if emulation is None:
        return None
    registers = context.registers
    at = registers.eip
    registers.eip = (at + instruction.length) & MASK32
    try:
        emulation.action(context, instruction)
    except BaseException:
        registers.eip = at
        raise
    return emulation.exit

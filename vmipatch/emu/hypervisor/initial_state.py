# SPDX-License-Identifier: MIT
"""In which state does a paravirtual guest want another processor to begin? SetInitialAPState tells.

Source: VMI specification 2.0, SetInitialAPState; struct vmi_ap_state of include/asm-x86/vmi.h in
Linux 2.6.24.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from vmipatch.emu.hypervisor import tables
from vmipatch.emu.hypervisor.context import Context
from vmipatch.emu.hypervisor.control import CR4_KNOWN, EFER, EFER_NXE
from vmipatch.emu.hypervisor.virtual_cpu import KERNEL_RING
from vmipatch.emu.processor.events import Fault, Vector
from vmipatch.emu.processor.segment import NULL_SEGMENT, SegmentState, SegReg

_INDEX: Final = 0xFFFC
_LAYOUT: Final = struct.Struct("<IIIIQIIIIIIIIIIHHHHHHHHIIH")
STATE_LEN: Final = _LAYOUT.size


@dataclass(frozen=True, slots=True)
class InitialState:
    """Registers as the guest names them: in ring 0, which becomes the kernel's."""

    cr0: int
    cr2: int
    cr3: int
    cr4: int
    efer: int
    eip: int
    eflags: int
    general: tuple[int, ...]
    """In the order of their encoding."""
    cs: int
    ss: int
    ds: int
    es: int
    fs: int
    gs: int
    ldtr: int
    gdtr: tuple[int, int]
    """Base and limit."""
    idtr: tuple[int, int]

    @classmethod
    def parse(cls, octets: bytes) -> InitialState:
        """Read STATE_LEN bytes."""
        (
            cr0, cr2, cr3, cr4, efer, eip, eflags,
            eax, ebx, ecx, edx, esp, ebp, esi, edi,
            cs, ss, ds, es, fs, gs, ldtr, gdt_limit, gdt_va, idt_va, idt_limit,
        ) = _LAYOUT.unpack(octets)  # fmt: skip
        return cls(
            cr0, cr2, cr3, cr4, efer, eip, eflags,
            (eax, ecx, edx, ebx, esp, ebp, esi, edi),
            cs, ss, ds, es, fs, gs, ldtr, (gdt_va, gdt_limit), (idt_va, idt_limit),
        )  # fmt: skip


def load_initial_state(context: Context, state: InitialState) -> None:
    """Give a processor in protected mode, at the kernel's ring, the registers that a guest names.

    CR0 has been loaded. Raises Fault for a selector that names no segment, PageFault for tables
    that are not mapped.
    """
    registers, vcpu = context.registers, context.vcpu
    registers.cr4, registers.cr3, registers.cr2 = state.cr4 & CR4_KNOWN, state.cr3, state.cr2
    context.cpu.write_msr(EFER, state.efer & EFER_NXE)
    registers.gdtr, registers.idtr = state.gdtr, state.idtr
    context.mmu.forget()
    for which, selector in (
        (SegReg.CS, state.cs), (SegReg.SS, state.ss), (SegReg.DS, state.ds),
        (SegReg.ES, state.es), (SegReg.FS, state.fs), (SegReg.GS, state.gs),
    ):  # fmt: skip
        registers.set_segment(which, _segment(context, which, selector))
    if state.ldtr & _INDEX:
        tables.set_ldt(context, state.ldtr)
    for number, value in enumerate(state.general):
        registers.set_gpr(number, value)
    registers.eip = state.eip
    vcpu.load_task(NULL_SEGMENT)
    vcpu.load_real_flags(state.eflags, KERNEL_RING)
    vcpu.enter(KERNEL_RING)
    registers.begin_with_flags(registers.eflags)


def _segment(context: Context, which: SegReg, selector: int) -> SegmentState:
    """The segment of a selector, in the ring that its privilege becomes here."""
    if not selector & _INDEX and which not in (SegReg.CS, SegReg.SS):
        return NULL_SEGMENT
    found = context.delivery.descriptor(selector, Vector.PROTECTION)
    ring = selector & 3 or KERNEL_RING
    wanted = found.is_code if which is SegReg.CS else found.is_stack or which is not SegReg.SS
    kernel_only = which in (SegReg.CS, SegReg.SS)
    if not found.is_present or not wanted or (kernel_only and (found.dpl or selector & 3)):
        raise Fault(Vector.PROTECTION, selector & 0xFFFC)
    return found.segment(selector & ~3 | ring)

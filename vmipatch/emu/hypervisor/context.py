# SPDX-License-Identifier: MIT
"""What may the emulation of an instruction touch? CPU, memory, stack, and what it asks for.

Emulated instructions run in the kernel only, so every access has the kernel's rights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vmipatch.emu.hypervisor.ring1 import Ring1Delivery
from vmipatch.emu.hypervisor.virtual_cpu import VirtualCpu
from vmipatch.emu.processor.cpu import Cpu
from vmipatch.emu.processor.segment import SegReg
from vmipatch.emu.processor.tlb import CachingMmu
from vmipatch.isa.trapped import MemoryPlace, TrappedInstruction


class Context:
    """One CPU in the hands of the hypervisor."""

    def __init__(
        self,
        cpu: Cpu,
        mmu: CachingMmu,
        vcpu: VirtualCpu,
        delivery: Ring1Delivery,
        identify: Callable[[], None],
        read_tsc: Callable[[], int],
        load_breakpoints: Callable[[Sequence[int]], None],
    ) -> None:
        self.cpu = cpu
        self.registers = cpu.registers
        self.mmu = mmu
        self.vcpu = vcpu
        self.delivery = delivery
        self.identify = identify
        """CPUID: fills the registers."""
        self.read_tsc = read_tsc
        """RDTSC: gives the counter."""
        self.load_breakpoints = load_breakpoints
        """Gets DR0 to DR7 after a change."""
        self.halted = False
        """The guest waits for an interrupt."""
        self.shadow_va: int | None = None
        """EIP after a `sti` or a load of SS: no interrupt there."""
        self.paging_left = False
        """The guest has switched paging off."""
        self.serves_nmi = False
        """A non-maskable interrupt was delivered, and no IRET seen since."""

    def reset(self) -> None:
        """INIT: nothing is awaited."""
        self.halted = self.paging_left = self.serves_nmi = False
        self.shadow_va = None

    def halt(self) -> None:
        """Wait for an interrupt."""
        self.halted = True
        self.cpu.stop()

    def end_nmi(self) -> None:
        """IRET: the next non-maskable interrupt may come."""
        if self.serves_nmi:
            self.serves_nmi = False
            self.cpu.stop()

    def begin_shadow(self) -> None:
        """Keep interrupts away from the next instruction."""
        self.shadow_va = self.registers.eip

    def linear(self, place: MemoryPlace) -> int:
        """The linear address of a memory operand."""
        base = self.registers.segment(SegReg(place.segment)).base
        return base + place.offset(self.registers.gpr) & 0xFFFFFFFF

    def read_operand(self, instruction: TrappedInstruction) -> int:
        """The 16 bits that ModRM names."""
        if instruction.memory is None:
            return self.registers.gpr(instruction.rm) & 0xFFFF
        return int.from_bytes(self.mmu.read(self.linear(instruction.memory), 2), "little")

    def write_operand(self, instruction: TrappedInstruction, value: int) -> None:
        """Store to what ModRM names: 16 bits in memory, the operand's length in a register."""
        registers = self.registers
        if instruction.memory is not None:
            self.write(self.linear(instruction.memory), (value & 0xFFFF).to_bytes(2, "little"))
        elif instruction.operand_len == 4:
            registers.set_gpr(instruction.rm, value)
        else:
            kept = registers.gpr(instruction.rm) & ~0xFFFF
            registers.set_gpr(instruction.rm, kept | value & 0xFFFF)

    def write(self, va: int, data: bytes) -> None:
        """Write at a linear address. Raises PageFault before the first byte."""
        places = [self.mmu.translate(va + i, write=True) for i in range(len(data))]
        for pa, octet in zip(places, data, strict=True):
            self.mmu.memory.write_u8(pa, octet)

    def peek(self, depth: int, length: int = 4) -> int:
        """The value `depth` bytes below the top of the stack."""
        va = self.registers.stack_va(self.registers.esp + depth)
        if length == 4:
            return self.mmu.read_u32(va)
        return int.from_bytes(self.mmu.read(va, length), "little")

    def push(self, value: int, length: int = 4) -> None:
        """Put a value on the stack."""
        registers = self.registers
        esp = registers.esp - length
        if length == 4:
            self.mmu.write_u32(self.registers.stack_va(esp), value)
        else:
            self.write(self.registers.stack_va(esp), (value & 0xFFFF).to_bytes(length, "little"))
        self._move_stack(esp)

    def drop(self, length: int) -> None:
        """Take bytes from the stack."""
        self._move_stack(self.registers.esp + length)

    def _move_stack(self, esp: int) -> None:
        registers = self.registers
        mask = registers.stack_mask
        registers.esp = registers.esp & ~mask | esp & mask

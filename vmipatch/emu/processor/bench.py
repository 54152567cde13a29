# SPDX-License-Identifier: MIT
"""How do a few bytes of code run without a machine? On a CPU whose callbacks note and stop."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import Final

from vmipatch.emu.clock import CELLS_LEN, Clock
from vmipatch.emu.processor.bits import Cr0, Cr4, Flag, HFlag
from vmipatch.emu.processor.callbacks import Exit
from vmipatch.emu.processor.cpu import Cpu
from vmipatch.emu.processor.memory import MIN_RAM_LEN, GuestMemory
from vmipatch.emu.processor.segment import SegmentState, SegReg

CODE_PA: Final = 0x1000
ALIAS_VA: Final = 0x800000
"""Where the first 4 MiB are mapped once more."""
GATE_VECTOR: Final = 0x20
"""Its handler increments EBX and halts."""
_HANDLER_PA: Final = 0x1800
_TABLES_PA: Final = 0x2000
_IDT_PA: Final = 0x3000
_STACK_PA: Final = 0x8000
_CS, _DS = 0x08, 0x10
_INC_EBX_HLT: Final = bytes.fromhex("43f4")


@dataclass(slots=True)
class Recorder:
    """Callbacks that stop at the first exception."""

    cpu: Cpu | None = None
    numbers: list[int] = field(default_factory=list)
    """Arguments of `on_interrupt`."""
    software: bool = False
    """Whether the last one was a software interrupt."""

    def on_interrupt(self, number: int) -> None:
        """Note the number, and stop."""
        assert self.cpu is not None, "set before the CPU runs"
        self.numbers.append(number)
        self.software = self.cpu.take_exception()
        self.cpu.stop()

    def on_invalid(self) -> None:
        """As exception 6."""
        self.on_interrupt(6)

    def on_in(self, port: int, size: int) -> int:
        """Nothing is there."""
        return 0

    def on_out(self, port: int, size: int, value: int) -> None:
        """Nothing is there."""

    def on_cpuid(self) -> None:
        """Registers stay."""

    def on_rdtsc(self) -> None:
        """Registers stay."""

    def on_fast_call(self) -> None:
        """Registers stay."""

    def on_hole_read(self, pa: int, size: int) -> int:
        """Nothing is there."""
        return 0

    def on_hole_write(self, pa: int, size: int, value: int) -> None:
        """Nothing is there."""


def recorded_cpu(memory: GuestMemory, recorder: Recorder) -> tuple[Cpu, Clock]:
    """A CPU that calls `recorder`, and what grants it slices."""
    cells = bytearray(CELLS_LEN)
    clock = Clock(memoryview(cells))
    cell_va = ctypes.addressof(ctypes.c_char.from_buffer(cells))
    recorder.cpu = Cpu(memory, cell_va, recorder)
    return recorder.cpu, clock


class Bench:
    """A CPU with a program at CODE_PA, in protected mode with paging."""

    def __init__(self, memory: GuestMemory | None = None, recorder: Recorder | None = None) -> None:
        """Both are made unless given. Raises EnvironmentProblem as Cpu does."""
        self.memory = GuestMemory(MIN_RAM_LEN) if memory is None else memory
        self.recorder = Recorder() if recorder is None else recorder
        self.cpu, self.clock = recorded_cpu(self.memory, self.recorder)
        self.memory.load(_HANDLER_PA, _INC_EBX_HLT)
        self.memory.write_u32(_TABLES_PA, 0x87)  # 4 MiB at 0, the rest is not there
        self.memory.write_u32(_TABLES_PA + 4 * (ALIAS_VA >> 22), 0x87)
        gate = _CS << 16 | _HANDLER_PA, 0x8E00
        for i, word in enumerate(gate):
            self.memory.write_u32(_IDT_PA + 8 * GATE_VECTOR + 4 * i, word)
        self.memory.load(_STACK_PA, bytes.fromhex("0000000000000000ffff0000009bcf00"))

    def run(self, code: bytes, *, cpl: int = 0) -> Exit:
        """Run `code` to the first exception, halt or end of a slice."""
        registers = self.cpu.registers
        registers.cr4 = Cr4.PSE
        registers.cr3 = _TABLES_PA
        registers.cr0 = registers.cr0 | Cr0.PE | Cr0.PG
        registers.hflags |= HFlag.PE
        registers.gdtr = (_STACK_PA, 15)
        registers.idtr = (_IDT_PA, 8 * GATE_VECTOR + 7)
        dpl = cpl << 13
        registers.set_segment(SegReg.CS, SegmentState(_CS | cpl, 0, 0xFFFFFFFF, 0xCF9B00 | dpl))
        for which in (SegReg.SS, SegReg.DS, SegReg.ES):
            registers.set_segment(which, SegmentState(_DS | cpl, 0, 0xFFFFFFFF, 0xCF9300 | dpl))
        registers.cpl = cpl
        registers.refresh()
        registers.eflags = Flag.FIXED
        registers.esp = _STACK_PA
        return self.go(code)

    def go(self, code: bytes) -> Exit:
        """The same with the registers as they are."""
        if self.memory.read(CODE_PA, len(code)) != code:
            self.memory.load(CODE_PA, code)
            self.cpu.flush_code()
        self.cpu.registers.eip = CODE_PA
        self.clock.grant_slice()
        return self.cpu.run()

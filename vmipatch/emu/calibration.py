# SPDX-License-Identifier: MIT
"""Is this Unicorn the one that was measured? A few instructions tell, before any guest runs.

The state of the CPU is read and written at offsets that no header promises (`state`). Each check
runs a guest of some bytes and looks whether a field behaves as its name says.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from vmipatch.emu.clock import CELLS_LEN, Clock
from vmipatch.emu.cpu import VMEXIT, Cpu, Exit, SvmExit
from vmipatch.emu.memory import MIN_RAM_LEN, GuestMemory
from vmipatch.emu.registers import Cr0, Cr4, Flag, HFlag, Segment, SegReg
from vmipatch.errors import EnvironmentProblem

_CODE_PA: Final = 0x1000
_HANDLER_PA: Final = 0x1800
_TABLES_PA: Final = 0x2000
_IDT_PA: Final = 0x3000
_STACK_PA: Final = 0x8000
_UNMAPPED_VA: Final = 0x400000
_OTHER_CODE_PA: Final = 0x5000
_ALIAS_VA: Final = 0x800000
"""Where the first 4 MiB are mapped once more."""
_CS, _DS = 0x08, 0x10
_GATE_VECTOR = 0x20

_INT_55 = bytes.fromhex("cd55")
_STORE = bytes.fromhex("a300004000")  # mov [0x400000], eax
_PUSHF = bytes.fromhex("669c")  # with a prefix, at which the intercept is to be reported
_CLI = bytes.fromhex("fa")
_HLT = bytes.fromhex("f4")
_STI_NOP_HLT = bytes.fromhex("fb90f4")
_INC_EBX_HLT = bytes.fromhex("43f4")
_LOOP = bytes.fromhex("ebfe")
_ADD_OVERFLOW_INT = bytes.fromhex("b8ffffff7f83c001cd55")  # mov eax, 0x7fffffff; add eax, 1
_RETURN_EAX = bytes.fromhex("b800000000c3")  # mov eax, 0; ret
_WRITE_CODE_TWICE = bytes.fromhex(
    "c6050150800001"  # mov byte [0x805001], 1    nothing of the page is translated
    "c6050150800002"  # mov byte [0x805001], 2
    "b800500000ffd0"  # mov eax, 0x5000; call eax
    "89c3"  # mov ebx, eax
    "c6050150800003"  # mov byte [0x805001], 3    now it is
    "b800500000ffd0"
    "cd55"
)


@dataclass(slots=True)
class _Recorder:
    """Callbacks that stop at the first exception."""

    cpu: Cpu | None = None
    numbers: list[int] = field(default_factory=list)
    software: bool = False

    def on_interrupt(self, number: int) -> None:
        assert self.cpu is not None, "set before the CPU runs"
        self.numbers.append(number)
        self.software = self.cpu.take_exception()
        self.cpu.stop()

    def on_invalid(self) -> None:
        self.on_interrupt(6)

    def on_in(self, port: int, size: int) -> int:
        return 0

    def on_out(self, port: int, size: int, value: int) -> None:
        pass

    def on_cpuid(self) -> None:
        pass

    def on_rdtsc(self) -> None:
        pass

    def on_fast_call(self) -> None:
        pass

    def on_hole_read(self, pa: int, size: int) -> int:
        return 0

    def on_hole_write(self, pa: int, size: int, value: int) -> None:
        pass


class _Bench:
    """A CPU with a program at _CODE_PA, in protected mode with paging."""

    def __init__(self) -> None:
        self.memory = GuestMemory(MIN_RAM_LEN)
        cells = bytearray(CELLS_LEN)
        self.clock = Clock(memoryview(cells))
        self.recorder = _Recorder()
        cell_va = ctypes.addressof(ctypes.c_char.from_buffer(cells))
        self.cpu = self.recorder.cpu = Cpu(self.memory, cell_va, self.recorder)
        self.memory.load(_HANDLER_PA, _INC_EBX_HLT)
        self.memory.write_u32(_TABLES_PA, 0x87)  # 4 MiB at 0, the rest is not there
        self.memory.write_u32(_TABLES_PA + 4 * (_ALIAS_VA >> 22), 0x87)
        gate = _CS << 16 | _HANDLER_PA, 0x8E00
        for i, word in enumerate(gate):
            self.memory.write_u32(_IDT_PA + 8 * _GATE_VECTOR + 4 * i, word)
        self.memory.load(_STACK_PA, bytes.fromhex("0000000000000000ffff0000009bcf00"))

    def run(self, code: bytes, *, cpl: int = 0) -> Exit:
        """Run `code` to the first exception, halt or end of a slice."""
        registers = self.cpu.registers
        self.memory.load(_CODE_PA, code)
        self.cpu.flush_code()
        registers.cr4 = Cr4.PSE
        registers.cr3 = _TABLES_PA
        registers.cr0 = registers.cr0 | Cr0.PE | Cr0.PG
        registers.hflags |= HFlag.PE
        registers.gdtr = (_STACK_PA, 15)
        registers.idtr = (_IDT_PA, 8 * _GATE_VECTOR + 7)
        dpl = cpl << 13
        registers.set_segment(SegReg.CS, Segment(_CS | cpl, 0, 0xFFFFFFFF, 0xCF9B00 | dpl))
        for which in (SegReg.SS, SegReg.DS, SegReg.ES):
            registers.set_segment(which, Segment(_DS | cpl, 0, 0xFFFFFFFF, 0xCF9300 | dpl))
        registers.cpl = cpl
        registers.refresh()
        registers.eflags = Flag.FIXED
        registers.esp = _STACK_PA
        registers.eip = _CODE_PA
        self.clock.grant_slice()
        return self.cpu.run()


def _check_software(bench: _Bench) -> bool:
    bench.run(_INT_55)
    at_end = bench.cpu.registers.eip == _CODE_PA + len(_INT_55)
    return bench.recorder.numbers == [0x55] and bench.recorder.software and at_end


def _check_page_fault(bench: _Bench) -> bool:
    """Twice, since an exception that was not cleared makes a double fault of the second."""
    registers = bench.cpu.registers
    for count in (1, 2):
        bench.run(_STORE)
        if bench.recorder.numbers != [14] * count or bench.recorder.software:
            return False
        if (registers.error_code, registers.cr2) != (2, _UNMAPPED_VA):
            return False
    return registers.eip == _CODE_PA


def _check_flags(bench: _Bench) -> bool:
    bench.run(_ADD_OVERFLOW_INT)
    registers = bench.cpu.registers
    expected = Flag.OF | Flag.SF | Flag.AF | Flag.PF | Flag.FIXED
    registers_say = registers.eflags
    registers.eflags = Flag.CF | Flag.DF | Flag.FIXED
    return registers_say == expected and registers.eflags == Flag.CF | Flag.DF | Flag.FIXED


def _check_ring(bench: _Bench) -> bool:
    bench.run(_CLI, cpl=1)
    return bench.recorder.numbers == [13] and bench.cpu.registers.error_code == 0


def _check_intercept(bench: _Bench) -> bool:
    bench.cpu.intercept(frozenset({SvmExit.PUSHF}))
    bench.run(_PUSHF, cpl=1)
    seen = bench.recorder.numbers == [VMEXIT + SvmExit.PUSHF]
    return seen and bench.cpu.registers.eip == _CODE_PA


def _check_promise(bench: _Bench) -> bool:
    bench.cpu.registers.ebx = 0
    bench.cpu.promise_interrupt(_GATE_VECTOR)
    if bench.run(_HLT) is not Exit.HALT or not bench.cpu.interrupt_promised:
        return False
    exit_ = bench.run(_STI_NOP_HLT)
    taken = bench.cpu.registers.ebx == 1 and not bench.cpu.interrupt_promised
    return exit_ is Exit.HALT and taken


def _check_slice(bench: _Bench) -> bool:
    return bench.run(_LOOP) is Exit.SLICE and bench.cpu.counter.blocks > 0


def _check_rewritten_code(bench: _Bench) -> bool:
    """Code that is written through another mapping than it is executed in is not stale."""
    bench.memory.load(_OTHER_CODE_PA, _RETURN_EAX)
    bench.run(_WRITE_CODE_TWICE)
    registers = bench.cpu.registers
    return bench.recorder.numbers == [0x55] and (registers.ebx, registers.eax) == (2, 3)


CHECKS: Final[dict[str, Callable[[_Bench], bool]]] = {
    "software interrupts": _check_software,
    "page faults": _check_page_fault,
    "flags": _check_flags,
    "privilege levels": _check_ring,
    "intercepts": _check_intercept,
    "promised interrupts": _check_promise,
    "counting of blocks": _check_slice,
    "writes to code": _check_rewritten_code,
}
"""What is tried out, by its name in messages; each check gets a bench of its own."""


@functools.cache
def check_unicorn() -> None:
    """Try out everything the emulator relies on; once in a process, some milliseconds.

    Raises EnvironmentProblem that names what is different.
    """
    for name, check in CHECKS.items():
        if not check(_Bench()):
            raise EnvironmentProblem(
                f"in this build of Unicorn {name} do not work as measured",
                hint="install the official wheel: pip install unicorn==2.1.4",
            )

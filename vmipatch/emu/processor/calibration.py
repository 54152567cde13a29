# SPDX-License-Identifier: MIT
"""Is this Unicorn the one that was measured? A few instructions tell, before any guest runs.

The state of the CPU is read and written at offsets that no header promises (`state`). Each check
runs a guest of some bytes and looks whether a field behaves as its name says.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Final

from vmipatch.emu.processor.bench import CODE_PA, GATE_VECTOR, Bench
from vmipatch.emu.processor.bits import Flag
from vmipatch.emu.processor.callbacks import Exit
from vmipatch.emu.processor.intercepts import VMEXIT, SvmExit
from vmipatch.errors import EnvironmentProblem

_UNMAPPED_VA: Final = 0x400000
_OTHER_CODE_PA: Final = 0x5000
_OTHER_TABLES_PA: Final = 0x6000
_PAGE_LEN: Final = 0x1000

_INT_55 = bytes.fromhex("cd55")
_STORE = bytes.fromhex("a300004000")  # mov [0x400000], eax
_PUSHF = bytes.fromhex("669c")  # with a prefix, at which the intercept is to be reported
_PAUSE_INT = bytes.fromhex("66f390cd55")  # a prefix more than it needs
_CLI = bytes.fromhex("fa")
_HLT = bytes.fromhex("f4")
_STI_NOP_HLT = bytes.fromhex("fb90f4")
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


def _check_software(bench: Bench) -> bool:
    bench.run(_INT_55)
    at_end = bench.cpu.registers.eip == CODE_PA + len(_INT_55)
    return bench.recorder.numbers == [0x55] and bench.recorder.software and at_end


def _check_page_fault(bench: Bench) -> bool:
    """Twice, since an exception that was not cleared makes a double fault of the second."""
    registers = bench.cpu.registers
    for count in (1, 2):
        bench.run(_STORE)
        if bench.recorder.numbers != [14] * count or bench.recorder.software:
            return False
        if (registers.error_code, registers.cr2) != (2, _UNMAPPED_VA):
            return False
    return registers.eip == CODE_PA


def _check_flags(bench: Bench) -> bool:
    bench.run(_ADD_OVERFLOW_INT)
    registers = bench.cpu.registers
    expected = Flag.OF | Flag.SF | Flag.AF | Flag.PF | Flag.FIXED
    registers_say = registers.eflags
    registers.eflags = Flag.CF | Flag.DF | Flag.FIXED
    return registers_say == expected and registers.eflags == Flag.CF | Flag.DF | Flag.FIXED


def _check_ring(bench: Bench) -> bool:
    bench.run(_CLI, cpl=1)
    return bench.recorder.numbers == [13] and bench.cpu.registers.error_code == 0


def _check_intercept(bench: Bench) -> bool:
    bench.cpu.intercept(frozenset({SvmExit.PUSHF}))
    bench.run(_PUSHF, cpl=1)
    seen = bench.recorder.numbers == [VMEXIT + SvmExit.PUSHF]
    return seen and bench.cpu.registers.eip == CODE_PA


def _check_promise(bench: Bench) -> bool:
    bench.cpu.registers.ebx = 0
    bench.cpu.promise_interrupt(GATE_VECTOR)
    if bench.run(_HLT) is not Exit.HALT or not bench.cpu.interrupt_promised:
        return False
    exit_ = bench.run(_STI_NOP_HLT)
    taken = bench.cpu.registers.ebx == 1 and not bench.cpu.interrupt_promised
    return exit_ is Exit.HALT and taken


def _check_slice(bench: Bench) -> bool:
    return bench.run(_LOOP) is Exit.SLICE and bench.cpu.counter.blocks > 0


def _check_rewritten_code(bench: Bench) -> bool:
    """Code that is written through another mapping than it is executed in is not stale."""
    bench.memory.load(_OTHER_CODE_PA, _RETURN_EAX)
    bench.run(_WRITE_CODE_TWICE)
    registers = bench.cpu.registers
    return bench.recorder.numbers == [0x55] and (registers.ebx, registers.eax) == (2, 3)


def _check_contexts(bench: Bench) -> bool:
    """Each processor goes on with its own registers and tables, and finds the other's code."""
    registers, contexts = bench.cpu.registers, bench.cpu.contexts
    bench.run(_ADD_OVERFLOW_INT)
    first, flags = contexts.save(), registers.eflags
    registers.cr3 = _OTHER_TABLES_PA
    bench.memory.load(_OTHER_TABLES_PA, bytes(_PAGE_LEN))
    bench.memory.write_u32(_OTHER_TABLES_PA, 0x87)
    bench.memory.write_u32(_OTHER_TABLES_PA + 4 * (_UNMAPPED_VA >> 22), 0x87)
    if bench.go(_STORE + _HLT) is not Exit.HALT:
        return False
    second = contexts.save()
    contexts.load(first)
    bench.go(_STORE)  # the other processor's TLB would know the page
    if bench.recorder.numbers != [0x55, 14] or registers.eflags != flags:
        return False
    contexts.load(second)
    return bench.go(_STORE + _HLT) is Exit.HALT and registers.eax == 0x80000000


def _check_pause(bench: Bench) -> bool:
    """Seen while it is wanted, at its first prefix; the code is not translated anew."""
    bench.cpu.intercept(frozenset({SvmExit.PAUSE}))
    bench.run(_PAUSE_INT)
    seen = bench.recorder.numbers == [VMEXIT + SvmExit.PAUSE]
    at_it = bench.cpu.registers.eip == CODE_PA
    bench.cpu.intercept_pause(False)
    bench.go(_PAUSE_INT)
    return seen and at_it and bench.recorder.numbers[1:] == [0x55]


CHECKS: Final[dict[str, Callable[[Bench], bool]]] = {
    "software interrupts": _check_software,
    "page faults": _check_page_fault,
    "flags": _check_flags,
    "privilege levels": _check_ring,
    "intercepts": _check_intercept,
    "promised interrupts": _check_promise,
    "counting of blocks": _check_slice,
    "contexts": _check_contexts,
    "intercepts of PAUSE": _check_pause,
    "writes to code": _check_rewritten_code,
}
"""The checks, by their names in messages; each check gets a bench of its own."""

FOUR_GIB = 1 << 32


@functools.cache
def check_unicorn() -> None:
    """Try out everything the emulator relies on; once in a process, some milliseconds.

    Raises EnvironmentProblem that names what is different, or if this Python has 32 bits: code of
    the library is changed in memory, and only that of 64-bit hosts was measured.
    """
    if sys.maxsize < FOUR_GIB:
        raise EnvironmentProblem(
            "the emulator needs a 64-bit Python",
            hint="scan, rewrite, verify --static and restore do without; run this on a 64-bit host",
        )
    for name, check in CHECKS.items():
        if not check(Bench()):
            raise EnvironmentProblem(
                f"in this build of Unicorn {name} do not work as measured",
                hint="install the official wheel: pip install unicorn==2.1.4",
            )

# SPDX-License-Identifier: MIT
"""Are two contexts of one engine two processors? Registers apart, memory and code together."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vmipatch.emu.processor.bench import Recorder, recorded_cpu
from vmipatch.emu.processor.bits import Flag
from vmipatch.emu.processor.callbacks import Exit
from vmipatch.emu.processor.intercepts import VMEXIT, SvmExit
from vmipatch.emu.processor.memory import MIN_RAM_LEN, GuestMemory
from vmipatch.emu.processor.segment import SegReg
from vmipatch.emu.processor.startup import start_up

FIRST_PAGE, SECOND_PAGE, IVT_PA = 1, 2, 0
COUNTER_PA = 0x6000


class TwoProcessors:
    """Two processors in real mode, each at a page of its own."""

    def __init__(self, first: bytes, second: bytes) -> None:
        self.memory = GuestMemory(MIN_RAM_LEN)
        self.memory.load(FIRST_PAGE << 12, first)
        self.memory.load(SECOND_PAGE << 12, second)
        recorder = Recorder()
        self.seen = recorder.numbers
        self.cpu, self.clock = recorded_cpu(self.memory, recorder)
        start_up(self.cpu.registers, FIRST_PAGE)
        contexts = [self.cpu.contexts.save()]
        start_up(self.cpu.registers, SECOND_PAGE)
        contexts.append(self.cpu.contexts.save())
        self.contexts = contexts
        self.current = 1

    def turn(self, number: int, length: int = 1000) -> Exit:
        """Let one of them run for so many bytes."""
        if number != self.current:
            self.contexts[self.current] = self.cpu.contexts.save()
            self.cpu.contexts.load(self.contexts[number])
            self.current = number
        self.clock.grant_slice(length)
        return self.cpu.run()


COUNT = bytes.fromhex(
    "66b9d0070000"  # mov ecx, 2000
    "f0ff060060"  # again: lock inc word [0x6000]
    "6649"  # dec ecx
    "75f7"  # jnz again
    "f4"  # hlt
)
SPIN = bytes.fromhex("f390ebfc")  # again: pause; jmp again


def test_startup_is_real_mode_at_the_page() -> None:
    bench = TwoProcessors(COUNT, COUNT)
    registers = bench.cpu.registers
    assert (registers.selector(SegReg.CS), registers.code_va) == (SECOND_PAGE << 8, 0x2000)
    assert registers.cr0 & 1 == 0
    assert registers.eflags == Flag.FIXED
    assert registers.cpl == 0


@pytest.mark.parametrize("length", [1, 37, 1000])
def test_locked_increments_of_two_processors_are_all_counted(length: int) -> None:
    bench = TwoProcessors(COUNT, COUNT)
    ended: set[int] = set()
    for number in _alternating():
        if number not in ended and bench.turn(number, length) is Exit.HALT:
            ended.add(number)
        if len(ended) == 2:
            break
    assert bench.memory.read_u16(COUNTER_PA) == 4000


def test_code_that_one_writes_is_what_the_other_executes() -> None:
    write = bytes.fromhex("c6060021" + "43" + "f4")  # mov byte [0x2100], 0x43 (inc bx); hlt
    call = bytes.fromhex("e8fd00" + "f4" + "ebfa")  # again: call 0x100; hlt; jmp again
    bench = TwoProcessors(write, call)
    bench.memory.load((SECOND_PAGE << 12) + 0x100, b"\x90\xc3")
    bench.cpu.registers.esp = 0x9000
    assert bench.turn(1) is Exit.HALT
    assert bench.cpu.registers.ebx == 0
    assert bench.turn(0) is Exit.HALT
    assert bench.turn(1) is Exit.HALT
    assert bench.cpu.registers.ebx == 1


def test_pause_is_seen_while_it_is_wanted() -> None:
    bench = TwoProcessors(SPIN, SPIN)
    bench.cpu.intercept(frozenset({SvmExit.PAUSE}))
    assert bench.turn(1) is Exit.STOP
    assert bench.seen == [VMEXIT + SvmExit.PAUSE]
    assert bench.cpu.registers.code_va == 0x2000
    bench.cpu.intercept_pause(False)
    assert bench.turn(1) is Exit.SLICE
    bench.cpu.intercept_pause(True)
    assert bench.turn(1) is Exit.STOP
    assert len(bench.seen) == 2
    assert bench.turn(0) is Exit.SLICE  # the intercepts of a processor are its own


def test_write_of_cr0_is_seen_in_real_mode_before_it_happens() -> None:
    bench = TwoProcessors(COUNT, bytes.fromhex("66b801000000" + "0f01f0"))  # mov eax, 1; lmsw ax
    bench.cpu.intercept(frozenset({SvmExit.CR0_WRITE}))
    assert bench.turn(1) is Exit.STOP
    assert bench.seen == [VMEXIT + SvmExit.CR0_WRITE]
    assert bench.cpu.registers.code_va == 0x2006
    assert bench.cpu.registers.cr0 & 1 == 0


def test_nmi_comes_with_interrupts_off_once_until_iret() -> None:
    handler = bytes.fromhex("43" + "83fb02" + "74fe" + "cf")  # inc bx; cmp bx, 2; je itself; iret
    loop = bytes.fromhex("40ebfd")  # again: inc ax; jmp again
    bench = TwoProcessors(COUNT, loop)
    bench.memory.load(0x3000, handler)
    bench.memory.write_u32(IVT_PA + 8, 0x0300_0000)
    registers = bench.cpu.registers
    registers.esp = 0x9000
    for expected in (1, 2):
        bench.cpu.promise_nmi()
        assert bench.turn(1) is Exit.SLICE
        assert registers.ebx == expected
        assert not bench.cpu.nmi_promised
    assert registers.nmi_blocked  # the second one spins in its handler
    bench.cpu.promise_nmi()
    bench.turn(1)
    assert registers.ebx == 2
    assert bench.cpu.nmi_promised
    bench.cpu.take_nmi_back()
    assert not bench.cpu.nmi_promised


def test_context_of_another_length_is_refused() -> None:
    bench = TwoProcessors(COUNT, COUNT)
    with pytest.raises(ValueError, match="context"):
        bench.cpu.contexts.load(bytes(8))


def _alternating() -> Iterator[int]:
    for step in range(1_000_000):
        yield step & 1

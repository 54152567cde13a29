# SPDX-License-Identifier: MIT
"""Do the registers hold what was written, flags and hidden parts included?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmipatch.emu.processor.bits import ARITHMETIC, Flag, HFlag
from vmipatch.emu.processor.registers import RegisterFile
from vmipatch.emu.processor.segment import SegmentState, SegReg
from vmipatch.emu.processor.state import StateField

ALL_FLAGS = ARITHMETIC | int(
    Flag.DF | Flag.TF | Flag.IF | Flag.IOPL | Flag.NT | Flag.RF | Flag.VM | Flag.AC | Flag.ID
)
FLAT = SegmentState(0x10, 0, 0xFFFFFFFF, 0xCF9300)


def unexpected(*arguments: int) -> int:
    raise AssertionError("Unicorn need not be asked")


@pytest.fixture
def registers() -> RegisterFile:
    return make()


def make() -> RegisterFile:
    words = memoryview(bytearray(0x1800)).cast("I")
    return RegisterFile(words, unexpected, lambda number, value: None)


@given(st.integers(0, 0xFFFFFFFF))
def test_flags_come_back_as_they_were_written(value: int) -> None:
    registers = make()
    registers.eflags = value
    assert registers.eflags == value & ALL_FLAGS | Flag.FIXED


def test_lazy_flags_are_asked_for() -> None:
    words = memoryview(bytearray(0x1800)).cast("I")
    registers = RegisterFile(words, lambda: 0x246, lambda number, value: None)
    words[StateField.CC_OP >> 2] = 8
    assert registers.eflags == 0x246


def test_general_registers_by_name_and_number(registers: RegisterFile) -> None:
    names = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")
    for number, name in enumerate(names):
        setattr(registers, name, 0x1_0000_0001 + number)
    assert [registers.gpr(number) for number in range(8)] == list(range(1, 9))


def test_segments_keep_their_hidden_part(registers: RegisterFile) -> None:
    for which in SegReg:
        registers.set_segment(which, SegmentState(which * 8, which << 12, 0xFFF, 0x9300))
    assert registers.segment(SegReg.GS) == SegmentState(40, 5 << 12, 0xFFF, 0x9300)
    assert registers.segment(SegReg.GS).dpl == 0
    assert registers.selector(SegReg.FS) == 32


@pytest.mark.parametrize("based", [SegReg.DS, SegReg.ES, SegReg.SS])
def test_data_segment_with_a_base_is_noticed(registers: RegisterFile, based: SegReg) -> None:
    registers.hflags = HFlag.PE
    registers.set_segment(SegReg.CS, SegmentState(8, 0, 0xFFFFFFFF, 0xCF9B00))
    for which in (SegReg.SS, SegReg.DS, SegReg.ES):
        registers.set_segment(which, FLAT)
    registers.refresh()
    assert registers.hflags == HFlag.PE | HFlag.CS32 | HFlag.SS32
    registers.set_segment(based, SegmentState(0x10, 0x1000, 0xFFFFFFFF, 0xCF9300))
    registers.refresh()
    assert registers.hflags & HFlag.ADDSEG


def test_refresh_leaves_what_it_does_not_know(registers: RegisterFile) -> None:
    other = 1 << 22 | 1 << 9
    registers.hflags = other | HFlag.PE | 3
    registers.refresh()
    assert registers.hflags & other == other
    assert registers.cpl == 3


def test_shadow_ends(registers: RegisterFile) -> None:
    registers.hflags = HFlag.INHIBIT_IRQ | HFlag.CS32 | 1 << 22
    assert registers.interrupt_shadow
    registers.end_shadow()
    assert registers.hflags == HFlag.CS32 | 1 << 22

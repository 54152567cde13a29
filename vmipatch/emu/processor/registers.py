# SPDX-License-Identifier: MIT
"""What do the registers of the emulated CPU hold? Named properties over Unicorn's own state.

Reading and writing costs a tenth of a microsecond, forty times less than Unicorn's API.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from vmipatch.emu.processor.bits import ARITHMETIC, ControlRegister, Flag, HFlag, HFlag2
from vmipatch.emu.processor.segment import SegmentState, SegReg
from vmipatch.emu.processor.state import StateField

MASK32: Final = 0xFFFFFFFF


# Plain numbers: of an IntFlag, ~ leaves only the members, and & takes a microsecond.
_DIRECTION, _INTERRUPT, _FIXED = int(Flag.DF), int(Flag.IF), int(Flag.FIXED)
_LAZY: Final = ARITHMETIC | _DIRECTION
_SYSTEM: Final = int(
    Flag.TF | Flag.IF | Flag.IOPL | Flag.NT | Flag.RF | Flag.VM | Flag.AC | Flag.ID
)


_SHADOW: Final = int(HFlag.INHIBIT_IRQ)
_CS32, _SS32, _ADDSEG, _PE = map(int, (HFlag.CS32, HFlag.SS32, HFlag.ADDSEG, HFlag.PE))
_DERIVED: Final = int(HFlag.CS32 | HFlag.SS32 | HFlag.ADDSEG)


_GPR_STRIDE = 2
_CR_STRIDE = 2
_SEGMENT_WORDS = 6
_EIP, _EFLAGS = StateField.EIP >> 2, StateField.EFLAGS >> 2
_CC_SRC, _CC_OP, _DF = StateField.CC_SRC >> 2, StateField.CC_OP >> 2, StateField.DF >> 2
_HFLAGS, _SEGMENTS, _CR = StateField.HFLAGS >> 2, StateField.SEGMENTS >> 2, StateField.CR >> 2
_HFLAGS2, _NMI_BLOCKED = StateField.HFLAGS2 >> 2, int(HFlag2.NMI_BLOCKED)
_BIG = 1 << 22
_CS_BASE = _SEGMENTS + _SEGMENT_WORDS * SegReg.CS + 2
_SS_BASE = _SEGMENTS + _SEGMENT_WORDS * SegReg.SS + 2
_CS_ATTRIBUTES = _SEGMENTS + _SEGMENT_WORDS * SegReg.CS + 5
_SS_ATTRIBUTES = _SEGMENTS + _SEGMENT_WORDS * SegReg.SS + 5
_BASES = tuple(_SEGMENTS + _SEGMENT_WORDS * s + 2 for s in (SegReg.DS, SegReg.ES, SegReg.SS))
_DR = StateField.DR >> 2
_DR6 = _DR + 2 * 6
_CC_OP_EFLAGS = 1
"""All arithmetic flags are in CC_SRC."""


class _Word:
    """A register of 32 bits at a fixed place."""

    __slots__ = ("_index",)

    def __init__(self, index: int) -> None:
        self._index = index

    def __get__(self, owner: RegisterFile, owner_type: type | None = None) -> int:
        return owner.words[self._index]

    def __set__(self, owner: RegisterFile, value: int) -> None:
        owner.words[self._index] = value & MASK32


class RegisterFile:
    """The registers as numbers. After a change of CS, SS or CPL call `refresh` once."""

    __slots__ = ("_read_eflags", "_write_control", "words")

    eax = _Word(0)
    ecx = _Word(2)
    edx = _Word(4)
    ebx = _Word(6)
    esp = _Word(8)
    ebp = _Word(10)
    esi = _Word(12)
    edi = _Word(14)
    eip = _Word(_EIP)
    hflags = _Word(_HFLAGS)
    task_limit = _Word((StateField.TR >> 2) + 4)
    """The limit of the task register's segment."""
    error_code = _Word(StateField.ERROR_CODE >> 2)
    """The error code that the last exception would push, valid in the interrupt callback."""
    raw_eflags = _Word(_EFLAGS)
    """EFLAGS without arithmetic flags and DF; IF, TF, IOPL, NT, VM, AC are exact."""

    def __init__(
        self,
        words: memoryview,
        read_eflags: Callable[[], int],
        write_control: Callable[[int, int], None],
    ) -> None:
        self.words = words
        self._read_eflags = read_eflags
        self._write_control = write_control

    def gpr(self, number: int) -> int:
        """A general register by the number instructions encode it with."""
        return self.words[number * _GPR_STRIDE]

    def set_gpr(self, number: int, value: int) -> None:
        """Write a general register by its number."""
        self.words[number * _GPR_STRIDE] = value & MASK32

    @property
    def eflags(self) -> int:
        """All flags; the arithmetic ones are computed if the last instruction left that open."""
        words = self.words
        if words[_CC_OP] != _CC_OP_EFLAGS:
            return self._read_eflags()
        return (
            (words[_EFLAGS] & ~_LAZY & MASK32)
            | (words[_CC_SRC] & ARITHMETIC)
            | (words[_DF] & _DIRECTION)
            | _FIXED
        )

    @eflags.setter
    def eflags(self, value: int) -> None:
        words = self.words
        words[_CC_SRC] = value & ARITHMETIC
        words[_CC_SRC + 1] = 0
        words[_CC_OP] = _CC_OP_EFLAGS
        words[_DF] = MASK32 if value & _DIRECTION else 1
        words[_EFLAGS] = (value & _SYSTEM) | _FIXED

    def begin_with_flags(self, value: int) -> None:
        """As `eflags = value`, between two runs: the next one takes all flags from one word."""
        self.eflags = value
        self.words[_EFLAGS] |= value & _LAZY

    @property
    def interrupt_flag(self) -> bool:
        """EFLAGS.IF."""
        return bool(self.words[_EFLAGS] & _INTERRUPT)

    @property
    def interrupt_shadow(self) -> bool:
        """Whether the last instruction was `sti` or `mov ss`: no interrupt before the next one."""
        return bool(self.words[_HFLAGS] & _SHADOW)

    @property
    def iopl(self) -> int:
        """The I/O privilege level."""
        return self.words[_EFLAGS] >> 12 & 3

    @property
    def cpl(self) -> int:
        """The current privilege level."""
        return self.words[_HFLAGS] & 3

    @cpl.setter
    def cpl(self, value: int) -> None:
        self.words[_HFLAGS] = (self.words[_HFLAGS] & ~3) | value

    @property
    def cr0(self) -> int:
        """CR0, what is cached included."""
        return self.words[_CR]

    @cr0.setter
    def cr0(self, value: int) -> None:
        self._write_control(ControlRegister.CR0, value)

    @property
    def cr2(self) -> int:
        """The address of the last page fault."""
        return self.words[_CR + 2 * _CR_STRIDE]

    @cr2.setter
    def cr2(self, value: int) -> None:
        self.words[_CR + 2 * _CR_STRIDE] = value & MASK32

    @property
    def cr3(self) -> int:
        """The physical address of the page tables; writing it flushes the TLB."""
        return self.words[_CR + 3 * _CR_STRIDE]

    @cr3.setter
    def cr3(self, value: int) -> None:
        self._write_control(ControlRegister.CR3, value)

    @property
    def cr4(self) -> int:
        """CR4."""
        return self.words[_CR + 4 * _CR_STRIDE]

    @cr4.setter
    def cr4(self, value: int) -> None:
        self._write_control(ControlRegister.CR4, value)

    @property
    def code_va(self) -> int:
        """The linear address of EIP."""
        words = self.words
        return (words[_CS_BASE] + words[_EIP]) & MASK32

    @property
    def stack_mask(self) -> int:
        """The bits of ESP that the CPU uses: 32, or 16 on a stack segment of that kind."""
        return MASK32 if self.words[_SS_ATTRIBUTES] & _BIG else 0xFFFF

    def stack_va(self, offset: int) -> int:
        """The linear address of an offset in the stack segment."""
        return (self.words[_SS_BASE] + (offset & self.stack_mask)) & MASK32

    def segment(self, which: SegReg) -> SegmentState:
        """A segment register with its hidden part."""
        return self._segment_at(_SEGMENTS + _SEGMENT_WORDS * which)

    def set_segment(self, which: SegReg, value: SegmentState) -> None:
        """Write a segment register, its hidden part included, without any check."""
        self._set_segment_at(_SEGMENTS + _SEGMENT_WORDS * which, value)

    def selector(self, which: SegReg) -> int:
        """The visible part of a segment register."""
        return self.words[_SEGMENTS + _SEGMENT_WORDS * which]

    @property
    def ldtr(self) -> SegmentState:
        """The local descriptor table."""
        return self._segment_at(StateField.LDT >> 2)

    @ldtr.setter
    def ldtr(self, value: SegmentState) -> None:
        self._set_segment_at(StateField.LDT >> 2, value)

    @property
    def tr(self) -> SegmentState:
        """The task register."""
        return self._segment_at(StateField.TR >> 2)

    @tr.setter
    def tr(self, value: SegmentState) -> None:
        self._set_segment_at(StateField.TR >> 2, value)

    @property
    def gdtr(self) -> tuple[int, int]:
        """Base and limit of the global descriptor table."""
        return self._table_at(StateField.GDT >> 2)

    @gdtr.setter
    def gdtr(self, value: tuple[int, int]) -> None:
        self._set_segment_at(StateField.GDT >> 2, SegmentState(0, *value, 0))

    @property
    def idtr(self) -> tuple[int, int]:
        """Base and limit of the interrupt descriptor table."""
        return self._table_at(StateField.IDT >> 2)

    @idtr.setter
    def idtr(self, value: tuple[int, int]) -> None:
        self._set_segment_at(StateField.IDT >> 2, SegmentState(0, *value, 0))

    def refresh(self) -> None:
        """Derive again what Unicorn caches of CS and of the stack and data segments.

        Source: QEMU 5.0, target/i386/cpu.h, cpu_x86_load_seg_cache.
        """
        words = self.words
        hflags = words[_HFLAGS] & ~_DERIVED
        if words[_CS_ATTRIBUTES] & _BIG:
            hflags |= _CS32
        if words[_SS_ATTRIBUTES] & _BIG:
            hflags |= _SS32
        based = any(words[index] for index in _BASES)
        if based or not hflags & _CS32 or not hflags & _PE:
            hflags |= _ADDSEG
        words[_HFLAGS] = hflags

    @property
    def nmi_blocked(self) -> bool:
        """Whether a non-maskable interrupt is being served: no other one before IRET."""
        return bool(self.words[_HFLAGS2] & _NMI_BLOCKED)

    def unblock_nmi(self) -> None:
        """Let the next non-maskable interrupt come."""
        self.words[_HFLAGS2] &= ~_NMI_BLOCKED & MASK32

    def forget_stale_flags(self) -> None:
        """Before an instruction with a watch: Unicorn has put arithmetic flags where none are kept.

        It would add them to those that later instructions make.
        """
        self.words[_EFLAGS] &= ~_LAZY & MASK32

    def debug(self, number: int) -> int:
        """A debug register."""
        return self.words[_DR + 2 * number]

    def set_debug(self, number: int, value: int) -> None:
        """Write one without effect: no breakpoint is on, and none will be."""
        self.words[_DR + 2 * number] = value & MASK32

    @property
    def debug_status(self) -> int:
        """DR6, where Unicorn says why it raised a debug exception."""
        return self.words[_DR6]

    @debug_status.setter
    def debug_status(self, value: int) -> None:
        self.words[_DR6] = value & MASK32

    def end_shadow(self) -> None:
        """Let interrupts come at once, although the last instruction was `sti` or `mov ss`."""
        self.words[_HFLAGS] &= ~_SHADOW & MASK32

    def _table_at(self, index: int) -> tuple[int, int]:
        return self.words[index + 2], self.words[index + 4]

    def _segment_at(self, index: int) -> SegmentState:
        words = self.words
        return SegmentState(words[index], words[index + 2], words[index + 4], words[index + 5])

    def _set_segment_at(self, index: int, value: SegmentState) -> None:
        words = self.words
        words[index] = value.selector
        words[index + 2] = value.base
        words[index + 3] = 0
        words[index + 4] = value.limit
        words[index + 5] = value.attributes

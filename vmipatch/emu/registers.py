# SPDX-License-Identifier: MIT
"""What do the registers of the emulated CPU hold? Named properties over Unicorn's own state.

Reading and writing costs a tenth of a microsecond, forty times less than Unicorn's API.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vmipatch.emu.state import Field

MASK32: Final = 0xFFFFFFFF


class Flag(enum.IntFlag):
    """EFLAGS (Intel SDM volume 1, 3.4.3)."""

    CF = 1 << 0
    FIXED = 1 << 1
    PF = 1 << 2
    AF = 1 << 4
    ZF = 1 << 6
    SF = 1 << 7
    TF = 1 << 8
    IF = 1 << 9
    DF = 1 << 10
    OF = 1 << 11
    IOPL = 3 << 12
    NT = 1 << 14
    RF = 1 << 16
    VM = 1 << 17
    AC = 1 << 18
    ID = 1 << 21


ARITHMETIC: Final = int(Flag.CF | Flag.PF | Flag.AF | Flag.ZF | Flag.SF | Flag.OF)
# Plain numbers: of an IntFlag, ~ leaves only the members, and & takes a microsecond.
_DIRECTION, _INTERRUPT, _FIXED = int(Flag.DF), int(Flag.IF), int(Flag.FIXED)
_LAZY: Final = ARITHMETIC | _DIRECTION
_SYSTEM: Final = int(
    Flag.TF | Flag.IF | Flag.IOPL | Flag.NT | Flag.RF | Flag.VM | Flag.AC | Flag.ID
)


class HFlag(enum.IntFlag):
    """What Unicorn derives from other state and translates code by (QEMU, target/i386/cpu.h)."""

    CPL = 3
    INHIBIT_IRQ = 1 << 3
    CS32 = 1 << 4
    SS32 = 1 << 5
    ADDSEG = 1 << 6
    PE = 1 << 7
    GUEST = 1 << 21


_SHADOW: Final = int(HFlag.INHIBIT_IRQ)
_CS32, _SS32, _ADDSEG, _PE = map(int, (HFlag.CS32, HFlag.SS32, HFlag.ADDSEG, HFlag.PE))
_DERIVED: Final = int(HFlag.CS32 | HFlag.SS32 | HFlag.ADDSEG)


class SegReg(enum.IntEnum):
    """Segment registers in the order of their encoding."""

    ES = 0
    CS = 1
    SS = 2
    DS = 3
    FS = 4
    GS = 5


class Cr0(enum.IntFlag):
    """Bits of CR0."""

    PE = 1 << 0
    TS = 1 << 3
    WP = 1 << 16
    PG = 1 << 31


class Cr4(enum.IntFlag):
    """Bits of CR4."""

    TSD = 1 << 2
    PSE = 1 << 4
    PAE = 1 << 5


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment register with its hidden part.

    `limit` counts bytes; `attributes` is the upper half of a descriptor, base and limit included.
    """

    selector: int
    base: int
    limit: int
    attributes: int

    @property
    def dpl(self) -> int:
        """Privilege level of the descriptor."""
        return self.attributes >> 13 & 3


NULL_SEGMENT: Final = Segment(0, 0, 0, 0)

_GPR_STRIDE = 2
_CR_STRIDE = 2
_SEGMENT_WORDS = 6
_EIP, _EFLAGS = Field.EIP >> 2, Field.EFLAGS >> 2
_CC_SRC, _CC_OP, _DF = Field.CC_SRC >> 2, Field.CC_OP >> 2, Field.DF >> 2
_HFLAGS, _SEGMENTS, _CR = Field.HFLAGS >> 2, Field.SEGMENTS >> 2, Field.CR >> 2
_BIG = 1 << 22
_CS_BASE = _SEGMENTS + _SEGMENT_WORDS * SegReg.CS + 2
_SS_BASE = _SEGMENTS + _SEGMENT_WORDS * SegReg.SS + 2
_CS_ATTRIBUTES = _SEGMENTS + _SEGMENT_WORDS * SegReg.CS + 5
_SS_ATTRIBUTES = _SEGMENTS + _SEGMENT_WORDS * SegReg.SS + 5
_BASES = tuple(_SEGMENTS + _SEGMENT_WORDS * s + 2 for s in (SegReg.DS, SegReg.ES, SegReg.SS))
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


class ControlRegister(enum.IntEnum):
    """Control registers whose writing has effects that only Unicorn knows."""

    CR0 = 0
    CR2 = 2
    CR3 = 3
    CR4 = 4


class RegisterFile:
    """The registers as numbers. Whoever changes CS, SS or CPL calls `refresh` once behind it."""

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
    task_limit = _Word((Field.TR >> 2) + 4)
    """The limit of the task register's segment."""
    error_code = _Word(Field.ERROR_CODE >> 2)
    """What the last exception would push, valid in the interrupt callback."""
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
        """What of ESP the CPU uses: 32 bits, or 16 on a stack segment of that kind."""
        return MASK32 if self.words[_SS_ATTRIBUTES] & _BIG else 0xFFFF

    def stack_va(self, offset: int) -> int:
        """The linear address of an offset in the stack segment."""
        return (self.words[_SS_BASE] + (offset & self.stack_mask)) & MASK32

    def segment(self, which: SegReg) -> Segment:
        """A segment register with its hidden part."""
        return self._segment_at(_SEGMENTS + _SEGMENT_WORDS * which)

    def set_segment(self, which: SegReg, value: Segment) -> None:
        """Write a segment register, its hidden part included, without any check."""
        self._set_segment_at(_SEGMENTS + _SEGMENT_WORDS * which, value)

    def selector(self, which: SegReg) -> int:
        """The visible part of a segment register."""
        return self.words[_SEGMENTS + _SEGMENT_WORDS * which]

    @property
    def ldtr(self) -> Segment:
        """The local descriptor table."""
        return self._segment_at(Field.LDT >> 2)

    @ldtr.setter
    def ldtr(self, value: Segment) -> None:
        self._set_segment_at(Field.LDT >> 2, value)

    @property
    def tr(self) -> Segment:
        """The task register."""
        return self._segment_at(Field.TR >> 2)

    @tr.setter
    def tr(self, value: Segment) -> None:
        self._set_segment_at(Field.TR >> 2, value)

    @property
    def gdtr(self) -> tuple[int, int]:
        """Base and limit of the global descriptor table."""
        return self._table_at(Field.GDT >> 2)

    @gdtr.setter
    def gdtr(self, value: tuple[int, int]) -> None:
        self._set_segment_at(Field.GDT >> 2, Segment(0, *value, 0))

    @property
    def idtr(self) -> tuple[int, int]:
        """Base and limit of the interrupt descriptor table."""
        return self._table_at(Field.IDT >> 2)

    @idtr.setter
    def idtr(self, value: tuple[int, int]) -> None:
        self._set_segment_at(Field.IDT >> 2, Segment(0, *value, 0))

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

    def end_shadow(self) -> None:
        """Let interrupts come at once, although the last instruction was `sti` or `mov ss`."""
        self.words[_HFLAGS] &= ~_SHADOW & MASK32

    def _table_at(self, index: int) -> tuple[int, int]:
        return self.words[index + 2], self.words[index + 4]

    def _segment_at(self, index: int) -> Segment:
        words = self.words
        return Segment(words[index], words[index + 2], words[index + 4], words[index + 5])

    def _set_segment_at(self, index: int, value: Segment) -> None:
        words = self.words
        words[index] = value.selector
        words[index + 2] = value.base
        words[index + 3] = 0
        words[index + 4] = value.limit
        words[index + 5] = value.attributes

# SPDX-License-Identifier: MIT
"""Which bits do EFLAGS, the control registers and Unicorn's own flags have?"""

from __future__ import annotations

import enum
from typing import Final


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


class HFlag(enum.IntFlag):
    """Flags that Unicorn derives from other state and translates by (QEMU, target/i386/cpu.h)."""

    CPL = 3
    INHIBIT_IRQ = 1 << 3
    CS32 = 1 << 4
    SS32 = 1 << 5
    ADDSEG = 1 << 6
    PE = 1 << 7
    GUEST = 1 << 21


class HFlag2(enum.IntFlag):
    """More of the kind, looked at when code runs."""

    NMI_BLOCKED = 1 << 2


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
    PCE = 1 << 8


class ControlRegister(enum.IntEnum):
    """Control registers whose writing has effects that only Unicorn knows."""

    CR0 = 0
    CR2 = 2
    CR3 = 3
    CR4 = 4

# SPDX-License-Identifier: MIT
"""Which instructions can be intercepted at every CPL? Those that QEMU checks for AMD's SVM."""

from __future__ import annotations

import enum
from typing import Final

VMEXIT: Final = 0x100
"""Interrupt numbers from here on are intercepts: VMEXIT plus an exit code of AMD's SVM."""
FIRST_INTERCEPT: Final = 0x60
"""Exit codes from here on have a bit each; those before are accesses of control registers."""


class SvmExit(enum.IntEnum):
    """Exit codes of intercepts that work (AMD APM volume 2, appendix C)."""

    SMSW = 0x00  # a read of CR0
    CR0_WRITE = 0x10
    DR_WRITE = 0x30  # the first of eight, which come together
    IDTR_READ = 0x66
    GDTR_READ = 0x67
    LDTR_READ = 0x68
    TR_READ = 0x69
    RDTSC = 0x6E
    RDPMC = 0x6F
    PUSHF = 0x70
    POPF = 0x71
    CPUID = 0x72
    IRET = 0x74
    PAUSE = 0x77


PAUSE_BIT: Final = 1 << SvmExit.PAUSE - FIRST_INTERCEPT


DEBUG_REGISTERS: Final = 8


def intercept_words(exits: frozenset[SvmExit]) -> tuple[int, int, int, int]:
    """The four words at Field.INTERCEPTS that make these seen.

    The third word has the masks of control registers read and, in the upper half, written, the
    fourth those of debug registers.
    """
    bits = sum(1 << (e - FIRST_INTERCEPT) for e in exits if e >= FIRST_INTERCEPT)
    control = (SvmExit.SMSW in exits) | (SvmExit.CR0_WRITE in exits) << 16
    debug = (SvmExit.DR_WRITE in exits) * ((1 << DEBUG_REGISTERS) - 1) << 16
    return bits & 0xFFFFFFFF, bits >> 32, control, debug

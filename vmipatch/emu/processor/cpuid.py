# SPDX-License-Identifier: MIT
"""What does the CPU say of itself? A late in-order Atom without what would stand in the way.

The model (family 6, model 28, stepping 10) is one that Linux lists as free of Meltdown and of all
speculation flaws (arch/x86/kernel/cpu/common.c, cpu_vuln_whitelist), so that `pti=auto` means off.
Left out of its features: SEP, since Unicorn has no `sysenter`; MTRR and PAT, which are not
modelled; SSE2, for which Linux replaces `rdtsc` by longer forms; NX, under which Unicorn executes
stale code. PAE and the local APIC, which is there in any case, are shown on request: a kernel that
sees the APIC leaves the timers of the AT for it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final


class Feature(enum.IntFlag):
    """Leaf 1, EDX (Intel SDM volume 2, CPUID)."""

    FPU = 1 << 0
    PSE = 1 << 3
    TSC = 1 << 4
    MSR = 1 << 5
    PAE = 1 << 6
    CX8 = 1 << 8
    APIC = 1 << 9
    PGE = 1 << 13
    CMOV = 1 << 15
    MMX = 1 << 23
    FXSR = 1 << 24
    SSE = 1 << 25


FEATURES: Final = int(
    Feature.FPU | Feature.PSE | Feature.TSC | Feature.MSR | Feature.CX8 | Feature.PGE
    | Feature.CMOV | Feature.MMX | Feature.FXSR | Feature.SSE
)  # fmt: skip
SIGNATURE: Final = 0x000106CA
_VENDOR = (0x756E6547, 0x6C65746E, 0x49656E69)  # "Genu" "ntel" "ineI"
_MAX_LEAF = 2


@dataclass(frozen=True, slots=True)
class CpuidLeaf:
    """The registers after `cpuid`."""

    eax: int = 0
    ebx: int = 0
    ecx: int = 0
    edx: int = 0


def cpuid_leaf(number: int, *, pae: bool, apic: bool, processor: int = 0) -> CpuidLeaf:
    """The leaf that EAX asks for; all zero where it does not exist.

    `processor`: the number of the local APIC, in the upper byte of EBX.
    """
    if number == 0:
        return CpuidLeaf(_MAX_LEAF, *(_VENDOR[i] for i in (0, 1, 2)))
    if number == 1:
        shown = (Feature.PAE if pae else 0) | (Feature.APIC if apic else 0)
        return CpuidLeaf(SIGNATURE, processor << 24, 0, FEATURES | shown)
    if number == 2:
        return CpuidLeaf(eax=1)
    return CpuidLeaf()

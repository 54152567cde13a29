# SPDX-License-Identifier: MIT
"""Why did the guest leave its own code, and how often? One number for each kind of exit."""

from __future__ import annotations

import enum
from collections.abc import Iterator


class ExitKind(enum.IntEnum):
    """Every way from the guest into the hypervisor. The value is an index and means nothing."""

    CLI = 0
    STI = 1
    PUSHF = 2
    POPF = 3
    IRET = 4
    HLT = 5
    RDTSC = 6
    CPUID = 7
    CR_READ = 8
    CR_WRITE = 9
    CLTS = 10
    DEBUG_REGISTER = 11
    MSR = 12
    INVLPG = 13
    CACHE = 14  # invd, wbinvd
    TABLE_LOAD = 15  # lgdt, lidt, lldt, ltr
    TABLE_STORE = 16  # sgdt, sidt, sldt, str, smsw
    STACK_SEGMENT = 17  # mov ss, pop ss, lss with RPL 0
    FAR_RETURN = 18
    DESCRIPTOR = 19  # the first use of a descriptor with DPL 0
    FALLBACK = 20  # a hlt that stands for another instruction
    ROM = 21  # the ROM's own, in an audit run
    USER_FLAGS = 22  # cli or sti at CPL 3 with IOPL 3
    PORT_IN = 23
    PORT_OUT = 24
    INT = 25
    PAGE_FAULT = 26
    PROTECTION = 27  # handed on to the guest
    EXCEPTION = 28  # any other, handed on to the guest
    IRQ = 29
    TIMER = 30  # the slice is used up
    HOLE = 31  # memory where nothing is
    HYPERCALL_DELIVER = 32
    HYPERCALL_IRET = 33
    HYPERCALL_INIT = 34
    HYPERCALL_CALL = 35
    HYPERCALL_HALT = 36

    @property
    def title(self) -> str:
        """The kind in words."""
        return self.name.lower().replace("_", " ")


SENSITIVE = frozenset(ExitKind(number) for number in range(ExitKind.ROM))
"""Exits by instructions that a rewritten kernel is to do without."""
EMULATOR_FLOOR = frozenset(
    {
        ExitKind.PORT_IN, ExitKind.PORT_OUT, ExitKind.INT, ExitKind.PAGE_FAULT, ExitKind.EXCEPTION,
        ExitKind.TIMER, ExitKind.HOLE,
    }
)  # fmt: skip
"""Exits that the emulator needs whatever the guest's privilege is."""


class ExitCounts:
    """How often each kind happened."""

    def __init__(self) -> None:
        self.numbers = [0] * len(ExitKind)
        """Indexed by ExitKind: whoever counts hundreds of thousands adds here."""

    def __getitem__(self, kind: ExitKind) -> int:
        return self.numbers[kind]

    def __iter__(self) -> Iterator[tuple[ExitKind, int]]:
        """What happened at least once, most frequent first."""
        order = sorted(ExitKind, key=lambda kind: (-self.numbers[kind], kind))
        return ((kind, self.numbers[kind]) for kind in order if self.numbers[kind])

    def total(self, kinds: frozenset[ExitKind] = frozenset(ExitKind)) -> int:
        """The sum over `kinds`."""
        return sum(self.numbers[kind] for kind in kinds)

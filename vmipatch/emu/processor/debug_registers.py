# SPDX-License-Identifier: MIT
"""Which breakpoints do the debug registers ask for? Source: Intel SDM volume 3, 17.2."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vmipatch.emu.processor.library import LibraryPlace

DR6, DR7 = 6, 7
DR6_RESET: Final = 0xFFFF0FF0
DR7_RESET: Final = 0x400
DR6_CAUSES: Final = 0xE00F
"""Bits of DR6 that say why a debug exception came: breakpoints, BD, BS, BT."""
SINGLE_STEP: Final = 1 << 14
"""BS."""
NO_BREAKPOINTS: Final = (0, 0, 0, 0, 0, 0, DR6_RESET, DR7_RESET)
"""DR0 to DR7 after power-on."""
ENABLED: Final = 0xFF
"""Of DR7: a local and a global bit for each breakpoint."""
COUNT: Final = 4
LOAD_DR7: Final = "cpu_x86_update_dr7_x86_64"
PLACES: Final = (
    LibraryPlace(
        LOAD_DR7,
        1409,
        "cd0d4c44fc24733ef48fcee4cda5c0b78130e1abc5db248b7304971c9809ba3d",
    ),
    # Raises the exception, after a look at which of the registers are meant.
    LibraryPlace(
        "breakpoint_handler_x86_64",
        136,
        "d8149a878fa83626f503b34c81f7ff0ae0e6bbb8c9184d0b5a67f10ada560b25",
    ),
    LibraryPlace(
        "cpu_breakpoint_insert_x86_64",
        169,
        "a920b31a20540ab5884c2276eefe522c8d0a9d61c9fed0bd551b7df13b8a5a1a",
    ),
)
"""Code that is called, of the official x86-64 build (manylinux wheel)."""
_LENGTHS: Final = (1, 2, 8, 4)


class BreakpointKind(enum.IntEnum):
    """R/W of DR7."""

    EXECUTE = 0
    STORE = 1
    PORT = 2
    ACCESS = 3


@dataclass(frozen=True, slots=True)
class Breakpoint:
    """One that is switched on."""

    number: int
    va: int
    """Of instructions as it is; of data, down to a multiple of the length."""
    length: int
    kind: BreakpointKind


def breakpoints(registers: Sequence[int]) -> tuple[Breakpoint, ...]:
    """Those that DR0 to DR7 switch on, for a task or for all."""
    dr7 = registers[DR7]
    found = []
    for number in range(COUNT):
        if dr7 >> 2 * number & 3:
            fields = dr7 >> 16 + 4 * number & 0xF
            kind, length = BreakpointKind(fields & 3), _LENGTHS[fields >> 2]
            found.append(Breakpoint(number, registers[number] & -length, length, kind))
    return tuple(found)

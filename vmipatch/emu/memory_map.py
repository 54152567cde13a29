# SPDX-License-Identifier: MIT
"""Which memory has a PC, as its firmware reports it?"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from vmipatch.emu.processor.memory import HIGH_PA, LOW_END_PA

BIOS_DATA_PA: Final = 0x9FC00
"""Where a BIOS keeps its extended data: the end of low memory."""
BIOS_PA: Final = 0xF0000


class E820Kind(enum.IntEnum):
    """The use of a range of memory."""

    RAM = 1
    RESERVED = 2


@dataclass(frozen=True, slots=True)
class E820Entry:
    """A range of the memory map that the firmware reports."""

    pa: int
    length: int
    kind: E820Kind


def memory_map(ram_len: int) -> tuple[E820Entry, ...]:
    """The map of a PC; the hole below 1 MiB is partly reserved, partly not mentioned."""
    return (
        E820Entry(0, BIOS_DATA_PA, E820Kind.RAM),
        E820Entry(BIOS_DATA_PA, LOW_END_PA - BIOS_DATA_PA, E820Kind.RESERVED),
        E820Entry(BIOS_PA, HIGH_PA - BIOS_PA, E820Kind.RESERVED),
        E820Entry(HIGH_PA, ram_len - HIGH_PA, E820Kind.RAM),
    )

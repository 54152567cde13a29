# SPDX-License-Identifier: MIT
"""Which interrupt reaches the processor next? The local APIC's first, then those of the AT's lines.

Both are numbered as lines: 0 to 15 those of the AT, LOCAL and a vector those of the local APIC.
"""

from __future__ import annotations

from typing import Final

from vmipatch.emu.devices.local_apic import LocalApic
from vmipatch.emu.devices.pic import PicPair

LOCAL: Final = 0x100


class Interrupts:
    """Both controllers as the processor sees them."""

    def __init__(self, pic: PicPair, apic: LocalApic) -> None:
        self._pic = pic
        self._apic = apic

    def pending_line(self) -> int | None:
        """The line that is to be served next, or None."""
        apic = self._apic
        if apic.requests and (vector := apic.pending_vector()) is not None:
            return LOCAL | vector
        return self._pic.pending_line() if apic.lets_line_in else None

    def vector_of(self, line: int) -> int:
        """The interrupt vector of a line."""
        return line & ~LOCAL if line & LOCAL else self._pic.vector_of(line)

    def acknowledge(self, line: int) -> int:
        """The processor takes the interrupt of a pending line; returns its vector."""
        if not line & LOCAL:
            return self._pic.acknowledge(line)
        vector = line & ~LOCAL
        self._apic.acknowledge(vector)
        return vector

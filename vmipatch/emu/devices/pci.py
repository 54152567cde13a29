# SPDX-License-Identifier: MIT
"""What is on the PCI bus? Nothing: configuration mechanism 1 with no device.

Source: PCI Local Bus Specification 2.3, 3.2.2.3.2. The address is one register of 32 bits: narrower
accesses to its ports are ordinary I/O, and CF9 among them resets the machine (`reset`).
"""

from __future__ import annotations

from typing import Final

from vmipatch.emu.devices.bus import PortBus

ADDRESS_PORT: Final = 0xCF8
_KEPT: Final = 0x80FFFFFC


class PciConfiguration:
    """The address register; the data ports read as ones, as any port without a device."""

    def __init__(self, bus: PortBus) -> None:
        self._address = 0
        bus.claim_dword(ADDRESS_PORT, lambda: self._address, self._write)

    def _write(self, value: int) -> None:
        self._address = value & _KEPT

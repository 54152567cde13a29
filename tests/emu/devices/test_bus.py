# SPDX-License-Identifier: MIT
"""Does an access to a port reach its device?"""

from __future__ import annotations

import pytest

from vmipatch.emu.devices.bus import PortBus


def test_wide_access_is_one_of_consecutive_ports() -> None:
    bus = PortBus()
    written: list[tuple[int, int]] = []
    bus.claim(0x70, lambda: 0x12, lambda value: written.append((0x70, value)))
    bus.claim(0x71, lambda: 0x34, lambda value: written.append((0x71, value)))
    assert bus.read(0x70, 2) == 0x3412
    bus.write(0x70, 2, 0xABCD)
    assert written == [(0x70, 0xCD), (0x71, 0xAB)]


def test_empty_bus_reads_as_ones_and_swallows_writes() -> None:
    bus = PortBus()
    assert bus.read(0xFFFF, 4) == 0xFFFFFFFF
    bus.write(0xFFFF, 4, 0)
    assert (bus.reads[0xFFFF], bus.writes[0xFFFF]) == (1, 1)


def test_port_belongs_to_one_device() -> None:
    bus = PortBus()
    bus.claim(0x80, None, lambda value: None)
    with pytest.raises(ValueError, match="0x80"):
        bus.claim(0x80, lambda: 0, None)

# SPDX-License-Identifier: MIT
"""Which writes reset the machine?"""

from __future__ import annotations

import pytest

from tests.emu.devices.board import out
from vmipatch.emu.devices.bus import PortBus
from vmipatch.emu.devices.reset import ResetLine


@pytest.mark.parametrize(
    ("port", "value", "resets"),
    [
        (0x64, 0xFE, True), (0x64, 0x20, False), (0xCF9, 0x02, False), (0xCF9, 0x06, True),
        (0x92, 0x02, False), (0x92, 0x03, True),
    ],
)  # fmt: skip
def test_port_resets(port: int, value: int, resets: bool) -> None:
    bus, pulled = PortBus(), list[bool]()
    ResetLine(bus, lambda: pulled.append(True))
    out(bus, port, value)
    assert bool(pulled) is resets

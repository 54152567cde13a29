# SPDX-License-Identifier: MIT
"""How does a test drive a device? With a bus and a clock that it advances by hand."""

from __future__ import annotations

from vmipatch.emu.clock import CELLS_LEN, Clock
from vmipatch.emu.devices.bus import PortBus


def make_clock() -> Clock:
    """A clock at 0."""
    return Clock(memoryview(bytearray(CELLS_LEN)))


def advance(clock: Clock, ns: int) -> None:
    """Let time pass, and make the calls that become due, each at its time."""
    end_ns = clock.now_ns + ns
    reached: list[bool] = []
    clock.at(end_ns, lambda: reached.append(True))
    while not reached:
        clock.sleep()
        clock.run_due()


def out(bus: PortBus, port: int, *values: int) -> None:
    """Write bytes to a port, one after the other."""
    for value in values:
        bus.write(port, 1, value)


def inb(bus: PortBus, port: int) -> int:
    """Read a byte from a port."""
    return bus.read(port, 1)

# SPDX-License-Identifier: MIT
"""Which writes to ports matter to the outside world, and how closely are they compared?

A row of the table says it for the ports of one device, with the reason. Every port without a row is
compared in full: most have no device, and what a kernel writes there is part of a probe.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final


class Closeness(enum.Enum):
    """The writes to a port that have to be the same."""

    IN_FULL = "each write, in order"
    VALUES = "which values are ever written"
    PORTS = "that it is written to at all"
    ELSEWHERE = "nothing here: what it causes is compared in another channel"


@dataclass(frozen=True, slots=True)
class Device:
    """The ports [first, last] of one device."""

    name: str
    first: int
    last: int
    closeness: Closeness
    reason: str
    mask: int = 0xFFFFFFFF
    """The bits that are compared."""


DEVICES: Final = (
    Device("dma page", 0x80, 0x80, Closeness.PORTS, "a write here is a delay, counted by time"),
    Device("interrupt controller", 0x20, 0x21, Closeness.VALUES,
           "written for each interrupt, and interrupts come when it is time"),
    Device("second interrupt controller", 0xA0, 0xA1, Closeness.VALUES, "the same"),
    Device("timer", 0x40, 0x43, Closeness.PORTS,
           "told how long to wait from now on, which is another number in each machine"),
    Device("system control", 0x61, 0x61, Closeness.IN_FULL,
           "bits 4 to 7 can only be read, as timers stand; who changes another repeats them",
           mask=0x0F),
    Device("clock index", 0x70, 0x70, Closeness.VALUES,
           "read again and again until a second has begun"),
    Device("serial data", 0x3F8, 0x3F8, Closeness.ELSEWHERE,
           "bytes of the console: compared as lines, since they show times"),
    Device("serial interrupts", 0x3F9, 0x3F9, Closeness.VALUES,
           "switched on and off around what waits to be sent"),
)  # fmt: skip
"""Of the board of vmipatch.emu.devices.board."""

_WHOLE: Final = 0xFFFFFFFF
_BY_PORT: Final = {
    port: device for device in DEVICES for port in range(device.first, device.last + 1)
}


class PortWrites:
    """Turns writes into events, and sums up what is not compared one by one."""

    def __init__(self) -> None:
        self._seen: dict[int, set[int]] = {}

    def event(self, port: int, size: int, value: int) -> tuple[str, str] | None:
        """Channel and text of a write that is compared in full; None of any other."""
        device = _BY_PORT.get(port)
        if device is None or device.closeness is Closeness.IN_FULL:
            value &= _WHOLE if device is None else device.mask
            return f"port {port:#x}", f"out {port:#x}, {value:#0{2 + 2 * size}x}"
        if device.closeness is not Closeness.ELSEWHERE:
            kept = value if device.closeness is Closeness.VALUES else 0
            self._seen.setdefault(port, set()).add(kept)
        return None

    def sums(self) -> Iterator[tuple[str, str]]:
        """Channel and text of what was summed up, for the end of the run."""
        for port, values in sorted(self._seen.items()):
            device = _BY_PORT[port]
            shown = ""
            if device.closeness is Closeness.VALUES:
                shown = ": " + " ".join(f"{value:#04x}" for value in sorted(values))
            yield f"port {port:#x}", f"{device.name}, port {port:#x} was written{shown}"

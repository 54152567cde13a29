# SPDX-License-Identifier: MIT
"""How is an instruction refused that Unicorn has begun? It is undone once the CPU has stopped."""

from __future__ import annotations

from typing import Final

from vmipatch.emu.processor.cpu import Cpu
from vmipatch.emu.processor.events import Event, Vector

_GENERAL: Final = 8


class Refusal:
    """At most one instruction whose effects do not count."""

    def __init__(self, cpu: Cpu) -> None:
        self._cpu = cpu
        self._kept: tuple[int, ...] | None = None
        self._vector = Vector.PROTECTION

    @property
    def is_due(self) -> bool:
        """Whether there is one: nothing after it counts either."""
        return self._kept is not None

    def remember(self, vector: Vector = Vector.PROTECTION) -> None:
        """Unicorn may complete the instruction all the same: keep what it changes, and stop."""
        self._cpu.stop()
        self._cpu.deliver_alone(False)  # what comes before the stop is not to be delivered
        if self._kept is None:
            registers = self._cpu.registers
            self._kept = (registers.eip, *(registers.gpr(i) for i in range(_GENERAL)))
            self._vector = vector

    def settle(self) -> Event | None:
        """The CPU has stopped: undo the instruction; returns its exception."""
        if self._kept is None:
            return None
        registers = self._cpu.registers
        registers.eip, *general = self._kept
        self._kept = None
        for number, value in enumerate(general):
            registers.set_gpr(number, value)
        return Event.exception(self._vector)

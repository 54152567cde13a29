# SPDX-License-Identifier: MIT
"""The parts that a machine and the layer that rules one of its processors share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vmipatch.emu.clock import Clock
from vmipatch.emu.devices.local import LocalDevices
from vmipatch.emu.hooks import AttachedHooks
from vmipatch.emu.processor.cpu import Cpu
from vmipatch.emu.processor.events import Event
from vmipatch.emu.processor.memory import GuestMemory
from vmipatch.emu.processor.paging import Mmu
from vmipatch.emu.report import Statistics


@dataclass(slots=True, eq=False)
class MachineParts:
    """Memory, clock, devices and one processor, wired; the main loop is the machine's.

    Of several processors each has its own Parts, of which all but `local` are the same objects: the
    CPU is whichever processor is in the engine.
    """

    memory: GuestMemory
    clock: Clock
    local: LocalDevices
    """Of this processor."""
    cpu: Cpu
    mmu: Mmu
    identify: Callable[[], None]
    """CPUID: fills the registers."""
    statistics: Statistics
    hooks: AttachedHooks
    load_breakpoints: Callable[[Sequence[int]], None]
    """Gets DR0 to DR7 whenever they are not what they were."""
    pause: Callable[[], None] | None = None
    """Of several processors: let another one run, since this one waits for it (PAUSE)."""

    def delivered(self, event: Event) -> None:
        """The guest's handler for `event` is about to be entered."""
        self.statistics.vectors[event.vector] += 1
        for call in self.hooks.on_delivery:
            call(event)

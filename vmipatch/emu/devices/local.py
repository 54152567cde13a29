# SPDX-License-Identifier: MIT
"""Which devices has each processor of its own? Local APIC, its view of interrupts, VMI's alarms."""

from __future__ import annotations

from collections.abc import Callable

from vmipatch.emu.clock import Clock
from vmipatch.emu.devices.cycle_alarms import CycleAlarms
from vmipatch.emu.devices.interrupts import Interrupts
from vmipatch.emu.devices.local_apic import LocalApic
from vmipatch.emu.devices.messages import MessageBus
from vmipatch.emu.devices.pic import PicPair


class LocalDevices:
    """Those of one processor."""

    def __init__(
        self,
        number: int,
        clock: Clock,
        messages: MessageBus,
        pic: PicPair,
        ring_line: Callable[[], None],
    ) -> None:
        """`ring_line` pulses the timer's line, for alarms that ring by it."""
        self.number = number
        self.apic = LocalApic(clock, messages, number)
        self.interrupts = Interrupts(pic, self.apic)
        self.alarms = CycleAlarms(clock, ring_line, self.apic.ring_timer)

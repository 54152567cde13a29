# SPDX-License-Identifier: MIT
"""Who rules over the CPU? The seam between the machine and the layer that gives the guest its ring.

The machine owns memory, clock, devices and the main loop. What an exception, an interrupt or an
access to a port means depends on whether the guest kernel runs at CPL 0 (`native`) or above a
hypervisor; that is a Privilege.
"""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

from vmipatch.emu.events import Event
from vmipatch.emu.registers import Segment

if TYPE_CHECKING:
    from vmipatch.emu.loader import Boot
    from vmipatch.emu.machine import Machine


class Privilege(abc.ABC):
    """Decides what the guest may do. Any method may raise GuestEnded."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    @abc.abstractmethod
    def start(self, boot: Boot) -> None:
        """Set the CPU up; the kernel is in memory already."""

    @abc.abstractmethod
    def on_interrupt(self, number: int) -> None:
        """Unicorn reports an exception, a software interrupt or an intercept."""

    @abc.abstractmethod
    def deliver(self, event: Event) -> None:
        """Let the guest's handler for `event` run next."""

    @abc.abstractmethod
    def may_use_port(self, port: int, size: int) -> bool:
        """Whether the guest may touch the ports [port, port + size) now."""

    @abc.abstractmethod
    def interrupts_enabled(self) -> bool:
        """Whether the guest would take an external interrupt now."""

    @property
    @abc.abstractmethod
    def task(self) -> Segment:
        """The task register as the guest has loaded it: where its TSS is."""

    @abc.abstractmethod
    def before_devices(self) -> None:
        """The guest is about to reach the devices, or time to pass: settle what has happened."""

    @abc.abstractmethod
    def after_devices(self) -> None:
        """Devices may have changed: bring a pending interrupt to the guest, or withdraw it."""

    @abc.abstractmethod
    def before_run(self) -> None:
        """The machine is about to start the CPU again."""

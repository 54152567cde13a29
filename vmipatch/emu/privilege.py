# SPDX-License-Identifier: MIT
"""Who rules over the CPU? The seam between the machine and the layer that gives the guest its ring.

The machine owns memory, clock, devices and the main loop. What an exception, an interrupt or an
access to a port means depends on whether the guest kernel runs at CPL 0 (`native`) or above a
hypervisor; that is a Privilege.
"""

from __future__ import annotations

import abc
from typing import Final

from vmipatch.emu.loader import Boot
from vmipatch.emu.parts import MachineParts
from vmipatch.emu.processor.events import Event
from vmipatch.emu.processor.outer_kernel import OuterKernel
from vmipatch.emu.processor.segment import SegmentState
from vmipatch.emu.report import EmulatedInstruction

STORM_NS: Final = 1_000_000
"""Time that passes for a guest that faults for ever, at each look of the machine at it."""


class Privilege(abc.ABC):
    """Decides what the guest may do. Any method may raise GuestEnded."""

    is_paravirtual = False
    """Whether the guest kernel calls the hypervisor now."""

    def __init__(self, parts: MachineParts) -> None:
        self.parts = parts

    @property
    def is_hardware(self) -> bool:
        """Whether the CPU itself delivers exceptions to the guest, as far as it can."""
        return False

    @property
    def outer(self) -> OuterKernel | None:
        """The guest's kernel, if its ring is 1."""
        return None

    def count_delivered(self, vector: int, is_software: bool, count: int) -> None:  # noqa: B027
        """Take note of `count` events that the CPU has delivered by itself."""

    def count_answered(self, count: int) -> None:  # noqa: B027
        """Take note of `count` hypercalls that were answered without Python."""

    def take_promises_back(self) -> None:  # noqa: B027
        """Let no interrupt come before the next call of `after_devices`."""

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
    def task(self) -> SegmentState:
        """The task register as the guest has loaded it: where its TSS is."""

    @abc.abstractmethod
    def before_devices(self) -> None:
        """The guest is about to reach the devices, or time to pass: settle what has happened."""

    @abc.abstractmethod
    def after_devices(self) -> None:
        """Devices may have changed: bring a pending interrupt to the guest, or withdraw it."""

    @abc.abstractmethod
    def prepare(self) -> bool:
        """The machine is about to start the CPU again: whether that waits for an interrupt."""

    @abc.abstractmethod
    def before_run(self) -> None:
        """Nothing is left to wait for: deliver what the CPU is to begin with."""

    @abc.abstractmethod
    def start_up(self, page: int) -> None:
        """Let the processor, which is in the engine, begin as STARTUP asks for."""

    @abc.abstractmethod
    def switch_out(self) -> None:
        """Another processor takes the engine: leave nothing there but registers."""

    @abc.abstractmethod
    def switch_in(self) -> None:
        """The processor is in the engine again."""

    @property
    def is_held(self) -> bool:
        """Whether the processor is where it should not make way for another one."""
        return False

    def findings(self) -> tuple[EmulatedInstruction, ...]:
        """Sensitive instructions that a paravirtual kernel executed itself, by address."""
        return ()

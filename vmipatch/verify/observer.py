# SPDX-License-Identifier: MIT
"""How is a machine watched without being changed? Between it and the layer that rules its CPU."""

from __future__ import annotations

from vmipatch.emu.events import Event
from vmipatch.emu.loader import Boot
from vmipatch.emu.paravirt import ParavirtPrivilege
from vmipatch.emu.privilege import Privilege
from vmipatch.emu.registers import Segment
from vmipatch.verify.coverage import SiteRecorder
from vmipatch.verify.user_space import GATE, SystemCallRecorder


class Switch:
    """Whether the guest is, and was ever, paravirtual."""

    def __init__(self, privilege: ParavirtPrivilege | None) -> None:
        self._privilege = privilege
        self.happened = False

    def is_on(self) -> bool:
        """Whether the guest is paravirtual now."""
        return self._privilege is not None and self._privilege.is_paravirtual

    def look(self) -> None:
        """Note it."""
        self.happened = self.happened or self.is_on()


class Observer(Privilege):
    """Passes everything on to another privilege, and tells the recorders what they wait for."""

    def __init__(
        self,
        inner: Privilege,
        calls: SystemCallRecorder,
        sites: SiteRecorder,
        switch: Switch,
    ) -> None:
        super().__init__(inner.machine)
        self._inner = inner
        self._calls = calls
        self._sites = sites
        self._switch = switch

    def start(self, boot: Boot) -> None:
        """Set the CPU up."""
        self._inner.start(boot)

    def on_interrupt(self, number: int) -> None:
        """A system call is one of these."""
        if number == GATE:
            self._calls.on_gate()
        self._inner.on_interrupt(number)

    def deliver(self, event: Event) -> None:
        """Let the guest's handler run next."""
        self._inner.deliver(event)

    def may_use_port(self, port: int, size: int) -> bool:
        """Whether the guest may touch the ports."""
        return self._inner.may_use_port(port, size)

    def interrupts_enabled(self) -> bool:
        """Whether the guest would take an interrupt."""
        return self._inner.interrupts_enabled()

    @property
    def task(self) -> Segment:
        """The task register as the guest has loaded it."""
        return self._inner.task

    def before_devices(self) -> None:
        """Settle what has happened."""
        self._inner.before_devices()

    def after_devices(self) -> None:
        """Bring a pending interrupt to the guest."""
        self._inner.after_devices()

    def before_run(self) -> None:
        """The CPU stands still: sites that have been seen need no watch any more."""
        self._sites.forget()
        self._switch.look()
        self._inner.before_run()

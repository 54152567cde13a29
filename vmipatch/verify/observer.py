# SPDX-License-Identifier: MIT
"""How does verify watch a boot? System calls at their gate, sites as they are executed."""

from __future__ import annotations

from vmipatch.emu.hooks import Hooks
from vmipatch.emu.machine import Machine
from vmipatch.verify.coverage import SiteRecorder
from vmipatch.verify.user_space import SystemCallRecorder


class Switch:
    """Whether the guest is, and was ever, paravirtual."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.happened = False

    def is_on(self) -> bool:
        """Whether the guest is paravirtual now, on the processor that is running."""
        return self._machine.privilege.is_paravirtual

    def look(self) -> None:
        """Note it."""
        self.happened = self.happened or self.is_on()


def observer(calls: SystemCallRecorder, sites: SiteRecorder, switch: Switch) -> Hooks:
    """The hooks that let the recorders see what they wait for."""

    def on_interrupt(vector: int) -> None:
        calls.on_gate(vector)

    def before_run() -> None:
        sites.forget()
        switch.look()

    return Hooks(before_run=before_run, vectors=calls.gates, on_interrupt=on_interrupt)

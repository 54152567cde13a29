# SPDX-License-Identifier: MIT
"""Do hooks see what a machine does, in every mode, and does nothing change with them?"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from tests.emu.guest import Gate
from tests.emu.ring1_guest import ModeGuest
from vmipatch.choices import Mode
from vmipatch.emu.hooks import Hooks
from vmipatch.emu.machine import Machine
from vmipatch.emu.processor.events import Event, Vector
from vmipatch.emu.report import Ending, GuestEnded

PORT = 0x99
SOURCE = f"""
    mov al, 0x5A
    out {PORT}, al
    in al, {PORT}
    mov [0x120000], al
    int 0x40
    ud2
    cli
    hlt
handler:
    iretd
undefined:
    add dword ptr [esp], 2
    iretd
"""
GATES = {0x40: Gate("handler"), Vector.UNDEFINED: Gate("undefined")}


@dataclass(slots=True)
class Seen:
    """The arguments that the hooks of one machine were called with."""

    interrupts: list[int] = field(default_factory=list)
    delivered: list[Event] = field(default_factory=list)
    written: list[tuple[int, int, int]] = field(default_factory=list)
    waits: list[bool] = field(default_factory=list)
    traced: list[str] = field(default_factory=list)
    runs: int = 0

    def hooks(self) -> Hooks:
        return Hooks(
            before_run=self._count,
            on_interrupt=self.interrupts.append,
            on_delivery=self.delivered.append,
            on_port_write=lambda port, size, value: self.written.append((port, size, value)),
            on_wait=self._wait,
            on_trace=lambda now_ns, what: self.traced.append(what),
        )

    def _count(self) -> None:
        self.runs += 1

    def _wait(self, interrupts_enabled: bool) -> bool:
        self.waits.append(interrupts_enabled)
        return False


class Echo:
    """Ports that give back what was written last."""

    last = 0

    def read(self, port: int, size: int) -> int:
        return self.last

    def write(self, port: int, size: int, value: int) -> None:
        self.last = value


@pytest.mark.parametrize("mode", Mode)
def test_hooks_see_each_event(mode: Mode) -> None:
    seen = Seen()
    guest = ModeGuest(SOURCE, GATES, mode=mode, prepare=lambda machine: _watch(machine, seen))
    run = guest.run()
    assert run.result.ending is Ending.HALTED
    assert seen.written == [(PORT, 1, 0x5A)]
    assert seen.interrupts.count(0x40) == 1
    vectors = [event.vector for event in seen.delivered]
    assert vectors == [0x40, Vector.UNDEFINED]
    assert seen.waits == [False]
    assert seen.runs >= sum(run.result.statistics.exits.values()) > 0
    assert any("out 0x99" in what for what in seen.traced)


@pytest.mark.parametrize("mode", Mode)
def test_run_is_the_same_with_hooks(mode: Mode) -> None:
    plain = ModeGuest(SOURCE, GATES, mode=mode).run()
    guest = ModeGuest(SOURCE, GATES, mode=mode, prepare=lambda machine: _watch(machine, Seen()))
    assert guest.run().result == plain.result


def test_ports_can_be_answered_by_hooks() -> None:
    def prepare(machine: Machine) -> None:
        machine.watch(Hooks(ports=Echo()))

    assert ModeGuest(SOURCE, GATES, mode=Mode.NATIVE, prepare=prepare).run().word(0) == 0x5A
    assert ModeGuest(SOURCE, GATES, mode=Mode.NATIVE).run().word(0) == 0xFF


def test_detached_hooks_are_called_no_more() -> None:
    seen, kept = Seen(), Seen()

    def prepare(machine: Machine) -> None:
        detach = machine.watch(seen.hooks())
        _watch(machine, kept)
        detach()

    ModeGuest(SOURCE, GATES, mode=Mode.NATIVE, prepare=prepare).run()
    assert not seen.interrupts and not seen.runs
    assert kept.interrupts


def test_hook_may_end_the_run() -> None:
    def stop(event: Event) -> None:
        raise GuestEnded(Ending.QUIT, "seen enough")

    guest = ModeGuest(
        SOURCE, GATES, mode=Mode.TRAP,
        prepare=lambda machine: _attach(machine, Hooks(on_delivery=stop)),
    )  # fmt: skip
    assert guest.run().result.details == "seen enough"


def _watch(machine: Machine, seen: Seen) -> None:
    _attach(machine, seen.hooks())


def _attach(machine: Machine, hooks: Hooks) -> None:
    machine.watch(hooks)

# SPDX-License-Identifier: MIT
"""Does the hypervisor read the arguments that the table of calls lists, and write its results?

What the ROM hands over is in tests/rom/test_paravirt.py, what it reads itself in test_arguments.py.
"""

from __future__ import annotations

import contextlib
import random
from functools import cache
from typing import Any

import pytest

from tests.emu.guest import STACK_PA
from tests.emu.hypervisor.calls.arguments import Dice
from tests.emu.hypervisor.calls.playground import Paging, Playground
from vmipatch.choices import Mode
from vmipatch.emu.processor.events import Fault
from vmipatch.emu.processor.paging import PageFault
from vmipatch.emu.report import GuestEnded
from vmipatch.rom.entries import SERVED, Means
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.table import ROW_OF, ArgumentPlace

C = VmiCall
GPRS = ("eax", "ebx", "ecx", "edx", "esi", "edi", "ebp")
HYPERCALLS = [call for call, means in SERVED.items() if means is Means.HYPERCALL]
UNREAD = {
    C.FLUSH_TLB: {"eax"},  # there is no way to keep the global ones
    C.REBOOT: {"eax"},  # the machine ends, either way
}
STACK_AT = {8: ArgumentPlace.STACK_1, 12: ArgumentPlace.STACK_2}
"""Above the caller's EBX and the return address."""
ATTEMPTS = 40


class Recorder:
    """The registers, and which of them somebody looked at or changed."""

    def __init__(self, registers: Any) -> None:
        vars(self).update(_registers=registers, reads=set(), writes=set())

    def __getattr__(self, name: str) -> Any:
        if name in GPRS:
            self.reads.add(name)
        return getattr(self._registers, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in GPRS:
            self.writes.add(name)
        setattr(self._registers, name, value)


@cache
def _playground() -> Playground:
    """One for all calls: making one takes longer than ten calls."""
    return Playground(Paging.OFF, Mode.PARAVIRT)


def serve(call: VmiCall) -> tuple[Recorder, set[ArgumentPlace]]:
    """Let the hypervisor serve a call many times; what it touched of registers and stack."""
    playground = _playground()
    dice = Dice(random.Random(call), playground.label)
    machine, privilege, context = (
        playground.machine, playground.privilege, playground.privilege._context,
    )  # fmt: skip
    registers, peek = machine.cpu.registers, context.peek
    recorder, places = Recorder(registers), set[ArgumentPlace]()

    def recording_peek(depth: int, length: int = 4) -> int:
        if depth in STACK_AT:
            places.add(STACK_AT[depth])
        return peek(depth, length)

    for _ in range(ATTEMPTS):
        playground.restore()
        attempt = dice.attempt(call)
        for name, value in attempt.registers.items():
            setattr(registers, name, value)
        registers.esp = STACK_PA - 0x100
        for index, word in enumerate([7, 0x101000, *attempt.stack]):
            machine.memory.write_u32(registers.esp + 4 * index, word)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(context, "registers", recorder)
            patch.setattr(privilege, "_registers", recorder)
            patch.setattr(context, "peek", recording_peek)
            with contextlib.suppress(Fault, PageFault, GuestEnded):
                privilege._calls.serve(call)
    return recorder, places


@pytest.mark.parametrize("call", HYPERCALLS, ids=lambda call: call.name)
def test_hypervisor_reads_arguments_and_writes_results(call: VmiCall) -> None:
    row = ROW_OF[call]
    recorder, places = serve(call)
    in_registers = {a.place.value for a in row.arguments if a.place.is_register}
    assert recorder.reads == in_registers - UNREAD.get(call, set())
    assert places == {a.place for a in row.arguments if not a.place.is_register}
    returns = call is not C.SYSEXIT
    assert recorder.writes == (set(row.results) if returns else {"ebx"})

# SPDX-License-Identifier: MIT
"""What if a guest calls the ROM with nonsense? It may harm itself, and no one else."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.emu.hypervisor.calls.campaign import LIFE, live, play
from tests.emu.hypervisor.calls.judge import Broken
from tests.emu.hypervisor.calls.playground import Paging, Playground
from tests.emu.ring1_guest import entries
from vmipatch.choices import Mode
from vmipatch.emu.hypervisor import device_calls, hypercalls, tables
from vmipatch.emu.hypervisor.context import Context
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.shared import ROM_PA

C = VmiCall
SEED, SAMPLE, CAMPAIGN = 1, 6 * LIFE, 1_000_000
"""The sample is one life for each kind of paging, measured and audited."""
NEVER_BACK = {C.IRET, C.SYSEXIT, C.REBOOT, C.SHUTDOWN, C.HALT}
"""They end the guest or lead elsewhere: HALT to the handler of the interrupt that ends it, if one
can come."""
PARTS = 10


def test_random_calls_harm_the_guest_alone() -> None:
    ends = play(SEED, SAMPLE)
    assert ends.total() == SAMPLE
    for call in set(entries()) - NEVER_BACK:
        assert ends[f"{call.name}: back"] >= 15, f"{call.name} seldom comes back: {ends}"
    assert ends["IRET: came"] and ends["SYSEXIT: came"], "the users are reached"
    assert ends["HALT: irq"] and ends["HALT: halted"], "with and without an interrupt to come"


@pytest.mark.parametrize("paging", Paging)
def test_no_instruction_runs_at_cpl_0(paging: Paging) -> None:
    """Another witness than the hypervisor's own guard: a look at each instruction."""
    playground = Playground(paging, Mode.PARAVIRT)
    registers = playground.machine.cpu.registers
    rings: Counter[int] = Counter()
    playground.machine.cpu.watch_range(0, 1 << 32, lambda _va: rings.update((registers.cpl,)))
    live(random.Random(SEED), playground, 300, Counter(), "watched")
    assert set(rings) == {1, 3}
    assert rings[1] > 1500


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_a_million_random_calls_harm_the_guest_alone(part: int) -> None:
    """Ten seeds of 100,000 calls."""
    play(1000 + part, CAMPAIGN // PARTS)


def _with(call: VmiCall, harm: Callable[[Context], None]) -> Callable[[pytest.MonkeyPatch], None]:
    """A hypervisor that does `harm` when it serves `call`."""

    def seed_fault(patch: pytest.MonkeyPatch) -> None:
        body = hypercalls.CALLS[call]

        def harmful(context: Context) -> None:
            body(context)
            harm(context)

        patch.setitem(hypercalls.CALLS, call, harmful)

    return seed_fault


def _spoil(context: Context, pa: int) -> None:
    context.mmu.memory.octets[pa] ^= 1


def _alarm_by_apic(context: Context, board: Any) -> None:
    board.apic.write(0x80, 0x50)
    board.alarms.set(context.registers.eax, 0, 0)


def _cancel_by_apic(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(device_calls.DEVICE_CALLS, C.CANCEL_ALARM, _alarm_by_apic)


def _raise(error: Exception) -> None:
    raise error


def _blame_rom(patch: pytest.MonkeyPatch) -> None:
    from vmipatch.emu.hypervisor.paravirt import ParavirtPrivilege

    patch.setattr(ParavirtPrivilege, "_return_to_call", lambda self: None)


HARM: dict[str, tuple[type[BaseException], Callable[[pytest.MonkeyPatch], None]]] = {
    "a byte of the ROM": (Broken, _with(C.SET_CR2, lambda c: _spoil(c, ROM_PA + 0x200))),
    "memory after the ROM": (Broken, _with(C.SET_CR2, lambda c: _spoil(c, 0xF0000))),
    "a register": (Broken, _with(C.GET_DR, lambda c: setattr(c.registers, "esi", 5))),
    "a flag": (Broken, _with(C.WBINVD, lambda c: setattr(c.registers, "eflags", 0x203))),
    "IOPL": (Broken, _with(C.CLTS, lambda c: setattr(c.vcpu, "iopl", 2))),
    "real IF": (Broken, _with(C.CLTS, lambda c: setattr(c.registers, "raw_eflags", 2))),
    "GDTR": (Broken, _with(C.SET_IDT, lambda c: tables.set_gdt(c, (0x110000, 0x1F)))),
    "another device": (Broken, _cancel_by_apic),
    "a model-specific register": (Broken, _with(C.CLTS, lambda c: c.cpu.write_msr(0x175, 1))),
    "an error of the host": (KeyError, _with(C.SET_LDT, lambda c: _raise(KeyError("LDT")))),
    "the place of a fault": (Broken, _blame_rom),
}  # fmt: skip


@pytest.mark.parametrize("what", HARM)
def test_harm_is_noticed(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault seeded into the hypervisor ends the sample: it can fail."""
    error, seed_fault = HARM[what]
    seed_fault(monkeypatch)
    with pytest.raises(error):
        play(SEED, SAMPLE)

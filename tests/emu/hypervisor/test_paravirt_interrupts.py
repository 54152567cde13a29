# SPDX-License-Identifier: MIT
"""Do interrupts reach a paravirtual guest when the ROM lets them in, and at no other place?"""

from __future__ import annotations

import pytest

from tests.emu.guest import DATA_PA, KERNEL_CS, STACK_PA, Gate
from tests.emu.ring1_guest import (
    INIT,
    OPTIONS,
    ModeGuest,
    call_rom,
    entry_words,
    paravirt_rom,
    run_paravirt,
)
from tests.emu.ticking import EVERY_MS, controllers
from vmipatch.choices import Mode
from vmipatch.emu.hypervisor.exits import ExitKind
from vmipatch.emu.report import Ending
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.marks import parse_marks
from vmipatch.vmi.shared import ROM_PA

C = VmiCall
D = DATA_PA
TIMER = controllers(0x40) + EVERY_MS
COUNT_TICKS = f"""
tick:
    push eax
    inc dword ptr ss:[{D}]
    mov al, 0x20
    out 0x20, al
    pop eax
    iretd
"""
SPIN = """
    mov ecx, 200000
spin:
    dec ecx
    jnz spin
"""


@pytest.mark.parametrize("mode", [Mode.PARAVIRT, Mode.AUDIT])
def test_interrupts_arrive_when_the_rom_lets_them_in(mode: Mode) -> None:
    source = f"""
        {INIT} {TIMER}
        {SPIN}
        mov eax, dword ptr [{D}]
        mov dword ptr [{D + 4}], eax
        {call_rom(C.ENABLE_INTERRUPTS)}
        mov eax, dword ptr [{D}]
        mov dword ptr [{D + 8}], eax
        {SPIN.replace("spin", "again")}
        {call_rom(C.DISABLE_INTERRUPTS)}
        mov eax, dword ptr [{D}]
        mov dword ptr [{D + 12}], eax
        {SPIN.replace("spin", "more")}
        mov eax, dword ptr [{D}]
        mov dword ptr [{D + 16}], eax
        {call_rom(C.SHUTDOWN)}
    tick:
        push eax
        inc dword ptr ss:[{D}]
        mov al, 0x20
        out 0x20, al
        pop eax
        {call_rom(C.IRET)}
    """
    calls = (C.ENABLE_INTERRUPTS, C.DISABLE_INTERRUPTS, C.SHUTDOWN, C.IRET)
    done = run_paravirt(source, {0x40: Gate("tick")}, mode, calls)
    assert done.result.ending is Ending.HALTED
    assert done.word(1) == 0
    assert done.word(2) == 1, "what waited is delivered before the call returns"
    assert done.word(3) > 2
    assert done.word(4) == done.word(3)
    assert done.result.statistics.traps[ExitKind.HYPERCALL_DELIVER] == 1


def test_interrupt_that_waits_a_moment_costs_no_hypercall() -> None:
    """The guest masks interrupts for a fifth of its time, but never for long."""
    source = f"""
        {INIT} {TIMER}
    again:
        {call_rom(C.DISABLE_INTERRUPTS)}
        mov ecx, 100
    masked:
        dec ecx
        jnz masked
        {call_rom(C.ENABLE_INTERRUPTS)}
        mov ecx, 400
    open:
        dec ecx
        jnz open
        cmp dword ptr [{D}], 30
        jb again
        cli
        hlt
        {COUNT_TICKS}
    """
    calls = (C.ENABLE_INTERRUPTS, C.DISABLE_INTERRUPTS)
    done = run_paravirt(source, {0x40: Gate("tick")}, calls=calls)
    assert done.word(0) == 30
    assert done.result.now_ns > 29_000_000
    assert done.result.statistics.traps[ExitKind.HYPERCALL_DELIVER] == 0


def test_halt_waits_for_an_interrupt_and_returns() -> None:
    source = f"""
        {INIT} {TIMER}
        mov ebx, 0x1234
        {call_rom(C.HALT)}
        {call_rom(C.HALT)}
        mov dword ptr [{D + 4}], ebx
        cli
        hlt
        {COUNT_TICKS}
    """
    done = run_paravirt(source, {0x40: Gate("tick")}, calls=(C.HALT,))
    assert (done.word(0), done.word(1)) == (2, 0x1234)
    assert 1_900_000 < done.result.now_ns < 2_300_000


@pytest.mark.parametrize("mode", [Mode.PARAVIRT, Mode.AUDIT])
def test_event_at_any_instruction_of_iret_does_no_harm(mode: Mode) -> None:
    """An interrupt is raised at each place of the ROM that must not be interrupted, in turn."""
    marks = parse_marks(paravirt_rom())
    assert marks is not None
    source = f"""
        {INIT} {TIMER}
        mov al, 0x30
        out 0x43, al
        mov esi, 10
    again:
        mov ecx, 0x1111
        push 0x202
        push {KERNEL_CS}
        mov eax, back
        push eax
        {call_rom(C.IRET)}
        ud2
    back:
        cmp ecx, 0x1111
        je same
        ud2
    same:
        {call_rom(C.DISABLE_INTERRUPTS)}
        dec esi
        jnz again
        mov dword ptr [{D + 8}], esp
        {call_rom(C.SHUTDOWN)}
    tick:
        push eax
        inc dword ptr ss:[{D}]
        mov al, 0x20
        out 0x20, al
        pop eax
        {call_rom(C.IRET)}
    """
    calls = (C.IRET, C.DISABLE_INTERRUPTS, C.SHUTDOWN)
    start = min(region.start_off for region in marks.restarts)
    end = max(region.end_off for region in marks.restarts)
    hits = 0
    for off in range(start, end):
        guest = _InterruptedAt(f"{source}\n .p2align 2\n {entry_words(*calls)}", mode, ROM_PA + off)
        done = guest.run(OPTIONS)
        assert done.result.ending is Ending.HALTED, hex(off)
        assert done.word(2) == STACK_PA
        if guest.raised:
            hits += 1
            assert done.word(0) == guest.raised, hex(off)
    assert hits >= 3


MOST_RAISED = 4
"""The handler comes by, too: without an end, it would be interrupted for ever."""


class _InterruptedAt(ModeGuest):
    """A guest whose timer line rises when EIP reaches a place, every other time."""

    def __init__(self, source: str, mode: Mode, place_pa: int) -> None:
        super().__init__(source, {0x40: Gate("tick")}, mode=mode)
        self.prepare = self._watch
        self.raised = 0
        self._place_pa = place_pa
        self._armed = True

    def _watch(self, machine) -> None:  # type: ignore[no-untyped-def]
        def reached() -> None:
            self._armed = not self._armed
            if not self._armed and self.raised < MOST_RAISED:
                self.raised += 1
                machine.board.pic.pulse(0)
                machine.privilege.after_devices()

        machine.cpu.watch(self._place_pa, reached)

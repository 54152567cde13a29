# SPDX-License-Identifier: MIT
"""Do calls that forget addresses do the same without Python, and is Python told of them?"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tests.emu.guest import DATA_PA, SECOND_NS, EndedGuest, Gate
from tests.emu.processor.test_deliveries import DIRECTORY_PA, PAGED, SWITCH_ON, TABLE_PA, state
from tests.emu.ring1_guest import INIT, ModeGuest, call_rom, entry_words
from tests.emu.test_interrupts_in_time import TIMER
from vmipatch.choices import Mode
from vmipatch.emu.hooks import Hooks
from vmipatch.emu.hypervisor.exits import ExitKind
from vmipatch.emu.hypervisor.numbered_calls import NumberedCalls
from vmipatch.emu.machine import Machine
from vmipatch.emu.options import MachineOptions
from vmipatch.emu.processor.engine import why_plain
from vmipatch.emu.report import Ending
from vmipatch.vmi.calls import VmiCall as C

OPTIONS = MachineOptions(ram_len=8 << 20, limit_ns=SECOND_NS)
MODES = [Mode.PARAVIRT, Mode.AUDIT]
D = DATA_PA
FIRST_PA, SECOND_PA, WINDOW_VA = 0x210000, 0x211000, 0x300000
OTHER_DIRECTORY_PA = 0x202000
BEGIN = f"{INIT} {PAGED} {SWITCH_ON} mov eax, cr0\n {call_rom(C.SET_CR0)}\n"
ENTRIES = (
    C.SET_CR0,
    C.SET_CR3,
    C.GET_CR3,
    C.INVAL_PAGE,
    C.FLUSH_TLB,
    C.SET_GDT,
    C.ENABLE_INTERRUPTS,
)
LOAD_DIRECTORY = f"mov eax, {DIRECTORY_PA}\n {call_rom(C.SET_CR3)}\n"
FORGET_WINDOW = f"mov eax, {WINDOW_VA + 0x123}\n {call_rom(C.INVAL_PAGE)}\n"
WAYS = {
    "SetCR3": LOAD_DIRECTORY,
    "InvalPage": FORGET_WINDOW,
    "FlushTLB": f"{call_rom(C.FLUSH_TLB)}\n",
}


def map_window(pa: int) -> str:
    return f"mov dword ptr [{TABLE_PA + 4 * (WINDOW_VA >> 12)}], {pa + 7}\n"


def run(
    source: str, mode: Mode, *, python: bool = False, gates: dict[int, Gate] | None = None
) -> EndedGuest:
    """To the end, with Python out of it or with Python."""

    def watch(machine: Machine) -> None:
        if python:
            machine.watch(Hooks(on_interrupt=lambda number: None))

    whole = f"{BEGIN} {source}\n .p2align 2\n {entry_words(*ENTRIES)}"
    return ModeGuest(whole, gates or {}, prepare=watch, mode=mode).run(OPTIONS)


def same(source: str, mode: Mode, gates: dict[int, Gate] | None = None) -> EndedGuest:
    """The run without Python, which is that with Python."""
    alone, asked = (run(source, mode, python=each, gates=gates) for each in (False, True))
    assert alone.result.ending is Ending.HALTED, alone.result
    assert state(alone) == state(asked)
    return alone


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", WAYS)
def test_call_shows_the_new_page(way: str, mode: Mode) -> None:
    """Stores and a load through the window reach the page of the moment."""
    source = f"""
        {map_window(FIRST_PA)} {LOAD_DIRECTORY}
        mov dword ptr [{WINDOW_VA}], 0x11
        {map_window(SECOND_PA)} {WAYS[way]}
        mov dword ptr [{WINDOW_VA}], 0x22
        {map_window(FIRST_PA)} {WAYS[way]}
        mov eax, [{WINDOW_VA}]
        mov [{D}], eax
        {call_rom(C.GET_CR3)}
        mov [{D + 4}], eax
        cli
        hlt
    """
    done = same(source, mode)
    assert (done.word(0), done.word(1)) == (0x11, DIRECTORY_PA)
    assert done.machine.memory.read_u32(SECOND_PA) == 0x22


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", WAYS)
def test_hypervisor_reads_by_the_new_page(way: str, mode: Mode) -> None:
    """The image of a table, read by SetGDT, is another one after each call."""
    image = "\n".join(
        f"mov word ptr [{pa}], {limit}\n mov dword ptr [{pa + 2}], 0x110000"
        for pa, limit in ((FIRST_PA, 0x2F), (SECOND_PA, 0x37))
    )
    load = f"mov eax, {WINDOW_VA}\n {call_rom(C.SET_GDT)}\n"
    source = f"""
        {image}
        {map_window(FIRST_PA)} {LOAD_DIRECTORY} {load}
        {map_window(SECOND_PA)} {WAYS[way]} {load}
        cli
        hlt
    """
    assert same(source, mode).machine.cpu.registers.gdtr == (0x110000, 0x37)


@pytest.mark.parametrize("way", WAYS)
def test_call_needs_no_python(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not why_plain()
    served: list[int] = []
    serve = NumberedCalls.serve

    def note(calls: NumberedCalls, number: int) -> None:
        served.append(number)
        serve(calls, number)

    monkeypatch.setattr(NumberedCalls, "serve", note)
    done = run(f"{WAYS[way] * 50} cli\n hlt", Mode.PARAVIRT)
    assert done.result.ending is Ending.HALTED
    assert served == [C.SET_CR0]
    assert done.result.statistics.traps[ExitKind.HYPERCALL_CALL] == 51


@pytest.mark.parametrize("mode", [Mode.NATIVE, Mode.TRAP, Mode.PARAVIRT])
def test_invlpg_forgets_its_page(mode: Mode) -> None:
    """The instruction itself, with a segment's base: natively, trapped, and left native."""
    source = f"""
        {INIT if mode.has_rom else ""} {PAGED} {map_window(FIRST_PA)} {SWITCH_ON}
        mov dword ptr [{WINDOW_VA}], 0x11
        {map_window(SECOND_PA)}
        mov eax, {WINDOW_VA // 2}
        invlpg [2 * eax + 0x345]
        mov dword ptr [{WINDOW_VA}], 0x22
        cli
        hlt
    """
    done = ModeGuest(source, {}, mode=mode).run(OPTIONS)
    assert done.result.ending is Ending.HALTED
    memory = done.machine.memory
    assert (memory.read_u32(FIRST_PA), memory.read_u32(SECOND_PA)) == (0x11, 0x22)


def random_calls(seed: int) -> str:
    """Mappings, accesses and calls in any order, while a timer ticks, in a loop."""
    dice = random.Random(seed)
    body = []
    for _ in range(30):
        body.append(
            dice.choice(
                (
                    map_window(dice.choice((FIRST_PA, SECOND_PA)))
                    + dice.choice(tuple(WAYS.values())),
                    f"add dword ptr [{WINDOW_VA + 4 * dice.randrange(8)}], {dice.randrange(9)}\n",
                    dice.choice(tuple(WAYS.values())),
                    f"mov eax, {OTHER_DIRECTORY_PA}\n {call_rom(C.SET_CR3)}",
                    call_rom(C.ENABLE_INTERRUPTS),
                    "in al, 0x21\n",
                )
            )
        )
    return f"""
        mov eax, [{DIRECTORY_PA}]
        mov [{OTHER_DIRECTORY_PA}], eax
        {TIMER}
        mov ebp, 40
    again:
        {"".join(f"{each}{chr(10)}" for each in body)}
        dec ebp
        jnz again
        cli
        hlt
    tick:
        push eax
        inc dword ptr [{D}]
        mov al, 0x20
        out 0x20, al
        pop eax
        iretd
    """


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(6))
def test_random_calls_are_the_same_while_interrupts_come(seed: int, mode: Mode) -> None:
    done = same(random_calls(seed), mode, {0x40: Gate("tick")})
    assert done.result.statistics.traps[ExitKind.HYPERCALL_CALL] > 100


def test_hook_that_wants_the_calls_gets_them() -> None:
    seen: list[int] = []

    def watch(machine: Machine) -> None:
        machine.watch(Hooks(vectors=frozenset({0xE3}), on_interrupt=seen.append))

    whole = f"{BEGIN} {FORGET_WINDOW} cli\n hlt\n .p2align 2\n {entry_words(*ENTRIES)}"
    guest = ModeGuest(whole, {}, mode=Mode.PARAVIRT)
    replace(guest, prepare=watch).run(OPTIONS)
    assert seen == [0xE3, 0xE3]

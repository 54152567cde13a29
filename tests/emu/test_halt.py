# SPDX-License-Identifier: MIT
"""Does a processor that was halted wait for an interrupt, and for nothing less?"""

from __future__ import annotations

import pytest

from tests.emu.guest import DATA_PA, Gate
from tests.emu.ring1_guest import INIT, ModeGuest, call_rom, entry_words
from vmipatch.emu.machine import MachineOptions
from vmipatch.emu.modes import Mode
from vmipatch.emu.report import Ending
from vmipatch.vmi.calls import VmiCall

TICKING = """
    mov al, 0x11
    out 0x20, al
    mov al, 0x40
    out 0x21, al
    mov al, 4
    out 0x21, al
    mov al, 1
    out 0x21, al
    mov al, {mask}
    out 0x21, al
    mov al, 0x34
    out 0x43, al
    mov al, 0xa9
    out 0x40, al
    mov al, 4
    out 0x40, al
"""
"""The timer rises line 0 every millisecond."""
OPTIONS = MachineOptions(ram_len=8 << 20, limit_ns=20_000_000)


@pytest.mark.parametrize(
    ("mask", "ending", "woken"), [(0xFF, Ending.LIMIT, 0), (0xFE, Ending.HALTED, 1)]
)
@pytest.mark.parametrize("mode", [Mode.NATIVE, Mode.TRAP, Mode.PARAVIRT])
def test_only_an_interrupt_wakes(mode: Mode, mask: int, ending: Ending, woken: int) -> None:
    """A timer behind a mask goes on, and wakes nobody."""
    paravirt = mode is Mode.PARAVIRT
    wait = call_rom(VmiCall.HALT) if paravirt else "sti\n hlt"
    source = f"""
    {INIT if paravirt else ""}
    {TICKING.format(mask=mask)}
    {wait}
    inc dword ptr [{DATA_PA}]
    cli
    hlt
tick:
    iretd
    .p2align 2
    {entry_words(VmiCall.HALT)}
    """
    run = ModeGuest(source, {0x40: Gate("tick")}, mode=mode).run(OPTIONS)
    assert (run.result.ending, run.word(0)) == (ending, woken)

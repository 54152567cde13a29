# SPDX-License-Identifier: MIT
"""Does a processor that was halted wait for an interrupt, and for nothing less?"""

from __future__ import annotations

import pytest

from tests.emu.guest import DATA_PA, Gate
from tests.emu.ring1_guest import INIT, ModeGuest, call_rom, entry_words
from tests.emu.ticking import EVERY_MS, controllers
from vmipatch.choices import Mode
from vmipatch.emu.options import MachineOptions
from vmipatch.emu.report import Ending
from vmipatch.vmi.calls import VmiCall

OPTIONS = MachineOptions(ram_len=8 << 20, limit_ns=20_000_000)


@pytest.mark.parametrize(
    ("mask", "ending", "woken"), [(0xFF, Ending.LIMIT, 0), (0xFE, Ending.HALTED, 1)]
)
@pytest.mark.parametrize("mode", [Mode.NATIVE, Mode.TRAP, Mode.PARAVIRT])
def test_only_an_interrupt_wakes(mode: Mode, mask: int, ending: Ending, woken: int) -> None:
    """A masked timer goes on, and wakes no one."""
    paravirt = mode is Mode.PARAVIRT
    wait = call_rom(VmiCall.HALT) if paravirt else "sti\n hlt"
    source = f"""
    {INIT if paravirt else ""}
    {controllers(0x40, mask)} {EVERY_MS}
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

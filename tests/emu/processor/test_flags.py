# SPDX-License-Identifier: MIT
"""Does `cmpxchg8b` leave flags in EFLAGS, and nothing of an operand?"""

from __future__ import annotations

import pytest

from tests.emu.guest import DATA_PA
from tests.emu.ring1_guest import OPTIONS, ModeGuest
from vmipatch.choices import Mode

RESERVED = 0xFFC0802A
"""Bits of EFLAGS that are always 0, but for 1, which is always 1 (Intel SDM volume 1, 3.4.3)."""
ZF, TF, NT = 0x40, 0x100, 0x4000
OPERAND = 0xDEADFFAA


@pytest.mark.parametrize("mode", [Mode.NATIVE, Mode.TRAP])
@pytest.mark.parametrize("equal", [True, False])
def test_exchange_after_a_popf(equal: bool, mode: Mode) -> None:
    """The flags come by popf into a block that compares, then exchanges."""
    source = f"""
        mov dword ptr [{DATA_PA + 16}], {OPERAND}
        mov dword ptr [{DATA_PA + 20}], 0
        mov eax, {OPERAND if equal else OPERAND + 1}
        mov edx, 0
        mov ebx, {OPERAND}
        mov ecx, 1
        push 2
        popfd
        jmp exchange
    exchange:
        cmp ecx, ebx
        cmpxchg8b qword ptr [{DATA_PA + 16}]
        jmp look
    look:
        pushfd
        pop dword ptr [{DATA_PA}]
        hlt
    """
    run = ModeGuest(source, {}, mode=mode).run(OPTIONS)
    flags = run.word(0)
    assert flags & (RESERVED | TF | NT) == 2, hex(flags)
    assert bool(flags & ZF) is equal
    assert run.machine.cpu.registers.eflags & (RESERVED | TF | NT) == 2

# SPDX-License-Identifier: MIT
"""Does a pending interrupt come when it may, not one instruction earlier, or end the run?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.emu.guest import DATA_PA, Gate
from tests.emu.ring1_guest import INIT, OPTIONS, ModeGuest
from vmipatch.choices import Mode
from vmipatch.emu.report import Ending

D = DATA_PA
TIMER = """
    mov al, 0x11
    out 0x20, al
    mov al, 0x40
    out 0x21, al
    mov al, 4
    out 0x21, al
    mov al, 1
    out 0x21, al
    mov al, 0xfe
    out 0x21, al
    mov al, 0x34
    out 0x43, al
    mov al, 0
    out 0x40, al
    mov al, 0x08
    out 0x40, al
"""
"""Line 0 ticks every 2,048 cycles of the PIT, at vector 0x40."""
TICKS = 5


def window(inside: str) -> str:
    """A loop in which interrupts may come after `inside` alone; ticks come with its address."""
    return f"""
        {TIMER}
    again:
        cmp dword ptr [{D}], {TICKS}
        jae done
        mov ecx, 50
    masked:
        dec ecx
        jnz masked
        sti
        {inside}
    after_it:
        cli
        jmp again
    done:
        hlt
    tick:
        push eax
        mov eax, [esp + 4]
        cmp eax, [expected]
        je in_time
        inc dword ptr [{D + 4}]
    in_time:
        inc dword ptr [{D}]
        mov al, 0x20
        out 0x20, al
        pop eax
        iretd
        .p2align 2
    expected: .long after_it
    """


# Intel SDM volume 2, STI: interrupts are recognised after the instruction that follows.
@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize(
    "inside",
    [
        "nop", "pause", ".byte 0x66, 0xf3, 0x90", "mov eax, eax", "pushfd\n popfd", "mov eax, cr0",
        "push eax\n pop eax",
    ],
)  # fmt: skip
def test_interrupt_comes_between_sti_and_cli(inside: str, mode: Mode) -> None:
    rest = "\n" in inside
    source = window(inside)
    run = ModeGuest((INIT if mode.has_rom else "") + source, {0x40: Gate("tick")}, mode=mode).run(
        OPTIONS
    )
    assert run.result.ending is Ending.HALTED, run.result
    assert run.word(0) == TICKS
    if not rest:
        assert run.word(1) == 0, "ticks at another place than after the instruction after sti"


@pytest.mark.parametrize("mode", [Mode.NATIVE, Mode.TRAP])
def test_nothing_comes_between_sti_and_its_neighbour(mode: Mode) -> None:
    source = window("").replace(
        f"cmp dword ptr [{D}], {TICKS}", f"inc dword ptr [{D + 8}]\n cmp dword ptr [{D + 8}], 3000"
    )
    run = ModeGuest(source, {0x40: Gate("tick")}, mode=mode).run(OPTIONS)
    assert (run.result.ending, run.word(0)) == (Ending.HALTED, 0)


LOOP = f"{TIMER}\n sti\n here: jmp here\n"


@pytest.mark.parametrize("mode", list(Mode))
def test_interrupt_without_a_gate_ends_the_run(mode: Mode) -> None:
    run = ModeGuest((INIT if mode.has_rom else "") + LOOP, mode=mode).run(OPTIONS)
    assert run.result.ending is Ending.TRIPLE_FAULT
    assert run.result.details == "triple fault, begun by external interrupt 64"
    assert run.result.now_ns < 10_000_000


@pytest.mark.parametrize("mode", list(Mode))
def test_interrupt_without_a_gate_is_a_fault_that_can_be_handled(mode: Mode) -> None:
    """Intel SDM volume 3, 6.13: vector * 8, IDT, EXT; the interrupt has been acknowledged."""
    source = f"""
        {INIT if mode.has_rom else ""} {LOOP}
    protection:
        pop dword ptr [{D}]
        in al, 0x20
        mov al, 0x0b
        out 0x20, al
        in al, 0x20
        movzx eax, al
        mov [{D + 4}], eax
        cli
        hlt
    """
    run = ModeGuest(source, {13: Gate("protection")}, mode=mode).run(OPTIONS)
    assert run.result.ending is Ending.HALTED
    assert (run.word(0), run.word(1)) == (0x40 * 8 + 3, 1)


@pytest.mark.parametrize("mode", list(Mode))
def test_real_time_has_a_limit(mode: Mode) -> None:
    options = replace(OPTIONS, limit_ns=None, timeout_s=0.2)
    run = ModeGuest("here: jmp here", mode=mode).run(options)
    assert (run.result.ending, run.result.ending.by_guest) == (Ending.TIMEOUT, False)
    assert run.result.details == "0.2 s, --timeout"

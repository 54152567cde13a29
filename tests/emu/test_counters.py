# SPDX-License-Identifier: MIT
"""Who may read time-stamp and performance counters? The kernel always, a process by CR4."""

from __future__ import annotations

import pytest

from tests.emu.guest import DATA_PA, TO_USER, Gate
from tests.emu.ring1_guest import INIT, OPTIONS, ModeGuest
from vmipatch.choices import Mode
from vmipatch.emu.report import Ending

TSD, PCE = 1 << 2, 1 << 8
UNDEFINED, PROTECTION = 6, 13
RDTSC, RDPMC, PREFIXED_RDPMC, RDTSCP = (
    "0x0f, 0x31",
    "0x0f, 0x33",
    "0x2e, 0x0f, 0x33",
    "0x0f, 0x01, 0xf9",
)
GATES = {UNDEFINED: Gate("undefined"), PROTECTION: Gate("protection"), 0x30: Gate("end", dpl=3)}


def tries(*instructions: str, base: int) -> str:
    """Execute each; its word becomes the vector of its exception, or 1 without one."""
    lines = []
    for number, code in enumerate(instructions):
        place = DATA_PA + base + 4 * number
        lines.append(f"""
            mov esi, {place}
            mov ebx, after_{place}
            mov dword ptr [esi], 0
            .byte {code}
            mov dword ptr [esi], 1
        after_{place}:""")
    return "\n".join(lines)


def guest(cr4: int, mode: Mode) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The outcomes of the instructions in the kernel, then in a process."""
    instructions = (RDTSC, RDTSCP, RDPMC, PREFIXED_RDPMC)
    source = f"""
        {INIT if mode.has_rom else ""}
        mov eax, {cr4}
        mov cr4, eax
        {tries(*instructions, base=0)}
        {TO_USER}
    user:
        {tries(*instructions, base=32)}
        int 0x30
    undefined:
        mov dword ptr [esi], {UNDEFINED}
        mov [esp], ebx
        iretd
    protection:
        add esp, 4
        mov dword ptr [esi], {PROTECTION}
        mov [esp], ebx
        iretd
    end:
        cli
        hlt
    """
    run = ModeGuest(source, GATES, mode=mode).run(OPTIONS)
    assert run.result.ending is Ending.HALTED, run.result
    kernel, process = (tuple(run.word(at + i) for i in range(len(instructions))) for at in (0, 8))
    return kernel, process


# Intel SDM volume 2, RDTSC and RDPMC; that the CPU has neither RDTSCP nor performance counters is
# as in `qemu-system-i386 -cpu qemu32`.
@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize(
    ("cr4", "process"),
    [
        (0, (1, UNDEFINED, PROTECTION, PROTECTION)),
        (TSD, (PROTECTION, UNDEFINED, PROTECTION, PROTECTION)),
    ],
)
def test_counters_are_the_kernels_and_a_process_asks_cr4(
    cr4: int, process: tuple[int, ...], mode: Mode
) -> None:
    assert guest(cr4, mode) == ((1, UNDEFINED, UNDEFINED, UNDEFINED), process)


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize(
    ("cr4", "process"),
    [
        (PCE, (1, UNDEFINED, UNDEFINED, UNDEFINED)),
        (TSD | PCE, (PROTECTION, UNDEFINED, UNDEFINED, UNDEFINED)),
    ],
)
def test_process_that_may_read_counters_has_none(
    cr4: int, process: tuple[int, ...], mode: Mode
) -> None:
    assert guest(cr4, mode) == ((1, UNDEFINED, UNDEFINED, UNDEFINED), process)


def test_counter_goes_on_under_tsd() -> None:
    source = f"""
        mov eax, {TSD}
        mov cr4, eax
        rdtsc
        mov [{DATA_PA}], eax
        mov [{DATA_PA + 4}], edx
        rdtsc
        mov [{DATA_PA + 8}], eax
        hlt
    """
    native, trapped = (
        ModeGuest(source, mode=mode).run(OPTIONS) for mode in (Mode.NATIVE, Mode.TRAP)
    )
    for run in (native, trapped):
        assert 0 < run.word(0) < run.word(2)
        assert run.word(1) == 0

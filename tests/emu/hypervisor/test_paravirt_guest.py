# SPDX-License-Identifier: MIT
"""Does the example guest, with every class of sensitive instruction, see the same anywhere?"""

from __future__ import annotations

from functools import cache

import pytest

from examples.guest.build import build
from examples.guest.link import PAGE_OFFSET
from tests.emu.guest import SECOND_NS
from tests.emu.ring1_guest import paravirt_of, paravirt_rom
from vmipatch.choices import Mode
from vmipatch.emu.build import MachineSpec, build_machine
from vmipatch.emu.hypervisor.exits import ExitKind
from vmipatch.emu.loader import Boot
from vmipatch.emu.machine import Machine
from vmipatch.emu.options import MachineOptions
from vmipatch.emu.report import Ending
from vmipatch.emu.terminal import Silence
from vmipatch.image.elf import ElfImage
from vmipatch.rewrite import RewriteOptions, rewrite

OPTIONS = MachineOptions(ram_len=64 << 20, limit_ns=20 * SECOND_NS)


@cache
def image(rewritten: bool) -> ElfImage:
    """The guest, as it is or rewritten."""
    original = ElfImage.parse(build(), "guest")
    if not rewritten:
        return original
    return ElfImage.parse(rewrite(original, RewriteOptions()).data, "guest.vmi")


@cache
def run(mode: Mode, rewritten: bool) -> tuple[Machine, bytes]:
    """A machine after its run, and what the guest said."""
    terminal = Silence()
    machine = build_machine(MachineSpec(mode, OPTIONS, paravirt_rom()), terminal)
    result = machine.run(Boot(image(rewritten)))
    assert result.ending is Ending.RESET, result
    return machine, bytes(terminal.heard)


@pytest.mark.parametrize(
    ("mode", "rewritten"),
    [
        (Mode.TRAP, False),
        (Mode.PARAVIRT, False),
        (Mode.NATIVE, True),
        (Mode.TRAP, True),
        (Mode.PARAVIRT, True),
        (Mode.AUDIT, True),
    ],
)
def test_guest_observes_what_it_observes_on_bare_hardware(mode: Mode, rewritten: bool) -> None:
    _, native = run(Mode.NATIVE, False)
    _, said = run(mode, rewritten)
    assert len(native.splitlines()) > 100
    assert said == native


def test_rewritten_guest_uses_calls_and_fallbacks_and_nothing_silent() -> None:
    machine, _ = run(Mode.AUDIT, True)
    traps = machine.statistics.traps
    assert traps[ExitKind.HYPERCALL_CALL] and traps[ExitKind.HYPERCALL_HALT]
    assert traps[ExitKind.FALLBACK]
    findings = paravirt_of(machine).findings()
    assert findings and not [finding for finding in findings if finding.is_unprivileged]


@pytest.mark.parametrize(
    ("mode", "kept"), [(Mode.NATIVE, 0), (Mode.TRAP, 0), (Mode.PARAVIRT, 1), (Mode.AUDIT, 1)]
)
def test_paravirt_calls_are_kept_where_the_rom_is_in_use(mode: Mode, kept: int) -> None:
    """Elsewhere the guest copies an instruction over its call, as it always did."""
    machine, _ = run(mode, True)
    variable = image(True).symbols.by_name["noreplace_paravirt"]
    assert machine.memory.read_u32(variable.va - PAGE_OFFSET) == kept

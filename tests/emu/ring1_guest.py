# SPDX-License-Identifier: MIT
"""How does a test run a small kernel at CPL 1, and compare it with CPL 0?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from tests.emu.guest import SECOND_NS, EndedGuest, Gate, Guest
from vmipatch.choices import Flavor, Mode
from vmipatch.emu.build import MachineSpec, build_machine
from vmipatch.emu.hypervisor.paravirt import ParavirtPrivilege
from vmipatch.emu.machine import Machine
from vmipatch.emu.options import MachineOptions
from vmipatch.emu.terminal import Silence
from vmipatch.isa.assemble import Assembled
from vmipatch.rom import build_rom
from vmipatch.vmi.calls import VmiCall
from vmipatch.vmi.shared import ROM_PA

OPTIONS = MachineOptions(ram_len=8 << 20, limit_ns=SECOND_NS)

INIT = f"""
    mov eax, {ROM_PA + 0x80}
    call eax
    test eax, eax
    jz paravirtual
    ud2
paravirtual:
"""
"""VMI_Init; what follows runs paravirtually."""


@dataclass(slots=True)
class ModeGuest(Guest):
    """A guest whose machine has a mode."""

    mode: Mode = Mode.TRAP

    def build(self, terminal: Silence, options: MachineOptions) -> Machine:
        """A machine of the mode, with our own ROM."""
        return build_machine(MachineSpec(self.mode, options, paravirt_rom()), terminal)


@cache
def paravirt_rom() -> bytes:
    """The image of our ROM."""
    return build_rom(Flavor.PARAVIRT).data


@cache
def entries() -> Mapping[VmiCall, int]:
    """Where each call of the ROM is, for a guest without paging."""
    rom = build_rom(Flavor.PARAVIRT)
    return {call: ROM_PA + off for call, off in rom.entries.items()}


def call_rom(call: VmiCall) -> str:
    """A near call of an entry that leaves all registers alone."""
    return f"call dword ptr cs:[entry_{call.name.lower()}]"


def entry_words(*calls: VmiCall) -> str:
    """The words that `call_rom` needs, for the end of a source."""
    lines = (f"entry_{call.name.lower()}: .long {entries()[call]}" for call in calls)
    return "\n".join(lines)


def run_paravirt(
    source: str,
    gates: dict[int, Gate] | None = None,
    mode: Mode = Mode.PARAVIRT,
    calls: Sequence[VmiCall] = (),
    options: MachineOptions = OPTIONS,
) -> EndedGuest:
    """A guest that makes `calls` of the ROM."""
    whole = f"{source}\n .p2align 2\n {entry_words(*calls)}"
    return ModeGuest(whole, gates or {}, mode=mode).run(options)


def run_both(source: str, gates: Mapping[int, Gate] | None = None) -> tuple[EndedGuest, EndedGuest]:
    """The same guest at CPL 0 and under trap and emulate."""
    native, trap = (
        ModeGuest(source, gates or {}, mode=mode).run(OPTIONS) for mode in (Mode.NATIVE, Mode.TRAP)
    )
    return native, trap


def paravirt_of(machine: Machine) -> ParavirtPrivilege:
    """The privileged layer of a paravirtual machine."""
    privilege = machine.privilege
    assert isinstance(privilege, ParavirtPrivilege)
    return privilege


def label(code: Assembled, name: str) -> int:
    """The address of a label."""
    return code.labels[name]

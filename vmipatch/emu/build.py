# SPDX-License-Identifier: MIT
"""How is a machine built? From its description, and here only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from vmipatch.choices import Mode
from vmipatch.emu.devices.display import TEXT_LEN, TEXT_PA
from vmipatch.emu.firmware import plug_firmware
from vmipatch.emu.hooks import Hooks
from vmipatch.emu.hypervisor.paravirt import ParavirtPrivilege, Watch, plug_paravirt
from vmipatch.emu.hypervisor.rom_image import GuestRom
from vmipatch.emu.hypervisor.trap import TrapPrivilege
from vmipatch.emu.hypervisor.world import World
from vmipatch.emu.machine import Machine
from vmipatch.emu.native import NativePrivilege
from vmipatch.emu.options import MachineOptions
from vmipatch.emu.parts import MachineParts
from vmipatch.emu.privilege import Privilege
from vmipatch.emu.processor.memory import Access, GuestMemory
from vmipatch.emu.terminal import Silence, Terminal

_WATCH: Final = {Mode.PARAVIRT: Watch.MEASURED, Mode.AUDIT: Watch.AUDIT}
"""By the modes whose hypervisor serves a ROM."""


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """One machine. The kernel, its initrd and its command line are a Boot, given to `Machine.run`.

    A mode with a hypervisor that serves a ROM needs `rom`; in the other modes it is left out,
    unless `plugs_rom` wants it in its place, unused.
    """

    mode: Mode = Mode.NATIVE
    options: MachineOptions = field(default_factory=MachineOptions)
    """Memory, CPU features and limits."""
    rom: bytes = field(default=b"", repr=False)
    """A ROM image (vmipatch.rom)."""
    plugs_rom: bool = False
    hooks: tuple[Hooks, ...] = ()


def build_machine(
    spec: MachineSpec, terminal: Terminal | None = None, memory: GuestMemory | None = None
) -> Machine:
    """The machine of `spec`, with `terminal` at its serial line: by default a Silence.

    `memory` is made unless given. Raises InputNotUnderstood for a ROM of another kind,
    EnvironmentProblem if this host cannot emulate.
    """
    options = spec.options
    memory = GuestMemory(options.ram_len) if memory is None else memory
    rom = GuestRom(spec.rom) if spec.mode in _WATCH or spec.plugs_rom else None
    time_page = None if rom is None else plug_paravirt(memory, rom)
    if options.display:
        memory.plug(TEXT_PA, bytes(TEXT_LEN), Access.READ_WRITE)
    if options.cpus > 1:
        plug_firmware(memory, options.cpus)

    world = None if rom is None else World(rom)

    def privilege(parts: MachineParts) -> Privilege:
        if spec.mode is Mode.NATIVE:
            return NativePrivilege(parts)
        if world is None or spec.mode is Mode.TRAP:
            return TrapPrivilege(parts)
        return ParavirtPrivilege(parts, world, _WATCH[spec.mode])

    # The clock's copy is for the ROM of a paravirtual guest.
    copy = time_page if spec.mode in _WATCH else None
    machine = Machine(terminal or Silence(), options, privilege, memory=memory, time_page=copy)
    for each in spec.hooks:
        machine.watch(each)
    return machine

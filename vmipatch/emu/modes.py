# SPDX-License-Identifier: MIT
"""In which ways can a machine run its guest? Four, from bare hardware to an audit."""

from __future__ import annotations

from vmipatch.choices import Mode
from vmipatch.emu.hypervisor import TrapPrivilege
from vmipatch.emu.machine import Machine, MachineOptions, Terminal, Tracer
from vmipatch.emu.memory import GuestMemory
from vmipatch.emu.paravirt import ParavirtPrivilege, Watch, plug_paravirt
from vmipatch.emu.rom_image import GuestRom


def build_machine(
    mode: Mode,
    terminal: Terminal,
    options: MachineOptions | None = None,
    *,
    rom: bytes = b"",
    trace: Tracer | None = None,
) -> Machine:
    """A machine of one mode; `rom` is the image that the modes with one need.

    Raises InputNotUnderstood for a ROM of another kind, EnvironmentProblem if this host cannot
    emulate.
    """
    options = options or MachineOptions()
    if mode is Mode.NATIVE:
        return Machine(terminal, options, trace=trace)
    if mode is Mode.TRAP:
        return Machine(terminal, options, privilege=TrapPrivilege, trace=trace)
    guest_rom = GuestRom(rom)
    watch = Watch.AUDIT if mode is Mode.AUDIT else Watch.MEASURED
    memory = GuestMemory(options.ram_len)
    time_page = plug_paravirt(memory, guest_rom)
    return Machine(
        terminal,
        options,
        privilege=lambda machine: ParavirtPrivilege(machine, guest_rom, watch),
        memory=memory,
        time_page=time_page,
        trace=trace,
    )

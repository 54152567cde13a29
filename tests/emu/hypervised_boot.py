# SPDX-License-Identifier: MIT
"""How does a test boot Linux in one of the modes? Once for the same arguments."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from tests.emu.guest import SECOND_NS
from tests.emu.ring1_guest import paravirt_rom
from tests.support.console import GuestConsole, complaints
from vmipatch.choices import Mode
from vmipatch.emu.build import MachineSpec, build_machine
from vmipatch.emu.hypervisor.exits import SENSITIVE
from vmipatch.emu.loader import Boot
from vmipatch.emu.options import MachineOptions
from vmipatch.emu.report import EmulatedInstruction, Ending, RunResult
from vmipatch.emu.terminal import Silence
from vmipatch.image.elf import ElfImage

COMMAND_LINE = (
    "console=ttyS0 earlyprintk=serial,ttyS0 reboot=t panic=-1 "
    "tsc=reliable tsc_early_khz=1000000 lpj=5000000"
)
ONE_PROCESSOR = "nosmp noapic nolapic acpi=off nokaslr"
LIMIT_NS = 200 * SECOND_NS


@dataclass(frozen=True, slots=True)
class HypervisedBoot:
    """A kernel that has come to its end."""

    result: RunResult
    console: str
    memory: str
    findings: tuple[EmulatedInstruction, ...]

    @property
    def sensitive(self) -> int:
        """Exits by sensitive instructions of the kernel."""
        traps = self.result.statistics.traps
        return sum(traps[kind] for kind in SENSITIVE)

    def check(self) -> None:
        """The workload came to its end, and the kernel had nothing to complain about."""
        assert self.result.ending is Ending.RESET_BY_FAULT, f"{self.result}\n{self.console}"
        assert GuestConsole.parse(self.console).done, self.console
        assert not complaints(self.console)
        assert self.result.place.endswith("CPL 1")


@cache
def boot(
    mode: Mode,
    vmlinux: str,
    initrd: str,
    append: str = "",
    again: int = 0,
    *,
    rom_unused: bool = False,
    rom: bytes | None = None,
    limit_ns: int = LIMIT_NS,
) -> HypervisedBoot:
    """Boot a kernel; `again` is for a run that must not be reused.

    With `rom_unused` the ROM and its pages are where a paravirtual kernel would have them, for a
    kernel in trap mode that does not ask for them: the same PC. `rom`: another than our own.
    """
    terminal = Silence()
    options = MachineOptions(limit_ns=limit_ns)
    assert mode is Mode.TRAP or not rom_unused
    machine = build_machine(MachineSpec(mode, options, rom or paravirt_rom(), rom_unused), terminal)
    with open(vmlinux, "rb") as kernel, open(initrd, "rb") as archive:
        image = ElfImage.parse(kernel.read(), vmlinux)
        result = machine.run(Boot(image, f"{COMMAND_LINE} {append}", archive.read()))
    found = machine.privilege.findings()
    text = terminal.heard.decode(errors="replace").replace("\r\n", "\n")
    return HypervisedBoot(result, text, machine.memory.digest(), found)

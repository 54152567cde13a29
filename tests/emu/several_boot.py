# SPDX-License-Identifier: MIT
"""How does a test boot Linux on several processors? With its plain command line.

Each boot prints its figures: `pytest -rP` shows them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache

from tests.emu.guest import SECOND_NS
from tests.emu.ring1_guest import paravirt_rom
from tests.support.console import GuestConsole, complaints
from vmipatch.choices import Mode
from vmipatch.emu.build import MachineSpec, build_machine
from vmipatch.emu.loader import Boot
from vmipatch.emu.options import MachineOptions
from vmipatch.emu.report import EmulatedInstruction, Ending, RunResult
from vmipatch.emu.terminal import Silence
from vmipatch.image.elf import ElfImage

PLAIN = "console=ttyS0 panic=-1 reboot=t"
OLD_TABLES = f"{PLAIN} acpi=off"
"""Processors by the MP table."""
LIMIT_NS = 300 * SECOND_NS


@dataclass(frozen=True, slots=True)
class SeveralBoot:
    """A kernel that has come to its end."""

    result: RunResult
    console: str
    memory: str
    findings: tuple[EmulatedInstruction, ...]
    cpus: int

    def check(self, ending: Ending = Ending.RESET_BY_FAULT) -> None:
        """All processors came up, and the kernel had nothing to complain about."""
        assert self.result.ending is ending, f"{self.result}\n{self.console}"
        assert f"Brought up 1 node, {self.cpus} CPUs" in self.console
        assert not complaints(self.console)
        assert not [each for each in self.findings if each.is_unprivileged]

    def check_all_worked(self) -> None:
        """`several.sh` came to its end, and each processor had a timer and messages."""
        assert GuestConsole.parse(self.console).done, self.console
        assert f"\nprocessors {self.cpus}\n" in self.console
        for name in ("LOC", "RES", "CAL"):
            counts = self.interrupts(name)
            assert len(counts) == self.cpus and min(counts) > 0, (name, counts)

    @property
    def printed(self) -> tuple[str, ...]:
        """The lines that the workload of `several.sh` printed, the same in every mode."""
        lines = GuestConsole.parse(self.console).test
        return lines[: lines.index("== interrupts")]

    def interrupts(self, name: str) -> list[int]:
        """How often each processor had an interrupt, as /proc/interrupts names it."""
        lines = [line.split() for line in self.console.splitlines()]
        counts = [line[1 : 1 + self.cpus] for line in lines if line[:1] == [f"{name}:"]]
        return [int(count) for count in counts[-1]]


@cache
def boot(
    mode: Mode, vmlinux: str, initrd: str, append: str = PLAIN, cpus: int = 2, again: int = 0
) -> SeveralBoot:
    """Boot a kernel; `again` is for a run that must not be reused."""
    terminal = Silence()
    options = MachineOptions(limit_ns=LIMIT_NS, cpus=cpus)
    machine = build_machine(MachineSpec(mode, options, paravirt_rom()), terminal)
    with open(vmlinux, "rb") as kernel, open(initrd, "rb") as archive:
        image = ElfImage.parse(kernel.read(), vmlinux)
        begun_s = time.process_time()
        result = machine.run(Boot(image, append, archive.read()))
        cpu_s = time.process_time() - begun_s
    text = terminal.heard.decode(errors="replace").replace("\r\n", "\n")
    found = machine.privilege.findings()
    digest = machine.memory.digest()
    print(f"{mode.value}, {cpus} processors: {result.blocks:,} blocks, {cpu_s:.1f} s, RAM {digest}")
    return SeveralBoot(result, text, digest, found, cpus)

# SPDX-License-Identifier: MIT
"""One boot in the emulator, in a process of its own: `python -m benchmarks.emulated_boot`.

Arguments: mode, kernel, initial file system, command line. The process is what is measured, with
the start of its interpreter; the exit code says whether the workload came to its end.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.counting import FINISHED
from vmipatch.choices import Flavor, Mode
from vmipatch.emu.build import MachineSpec, build_machine
from vmipatch.emu.loader import Boot
from vmipatch.emu.options import MachineOptions
from vmipatch.emu.terminal import Silence
from vmipatch.errors import ExitCode
from vmipatch.image.elf import ElfImage
from vmipatch.rom import build_rom

LIMIT_NS = 600 * 10**9


def main(mode: str, kernel: str, initrd: str, command_line: str) -> int:
    """Boot to the end; the exit code."""
    terminal, options = Silence(), MachineOptions(limit_ns=LIMIT_NS)
    rom = build_rom(Flavor.PARAVIRT).data
    machine = build_machine(MachineSpec(Mode(mode), options, rom), terminal)
    image = ElfImage.parse(Path(kernel).read_bytes(), kernel)
    result = machine.run(Boot(image, command_line, Path(initrd).read_bytes()))
    if result.ending.by_guest and FINISHED.encode() in terminal.heard:
        return ExitCode.SUCCESS
    print(f"{mode}: {result.ending.value}\n{terminal.heard[-2000:].decode(errors='replace')}")
    return ExitCode.ENVIRONMENT


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

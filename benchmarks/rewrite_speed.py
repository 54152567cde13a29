# SPDX-License-Identifier: MIT
"""How long does vmipatch take on a kernel, and how much memory, beside one `objdump -d` of it?

Each command runs in a process of its own, as a user runs it; the system accounts for it. A round
runs them all one after the other, so that what else the machine does hits them alike.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import account
from benchmarks.sample import RunResults
from vmipatch.errors import EnvironmentProblem, ExitCode

DISASSEMBLER = "objdump"
VMIPATCH = (sys.executable, "-c", "from vmipatch.cli.main import main; main()", "--quiet")
AIM_S = {"tiny": 5.0, "tiny-os": 5.0, "smp-pae": 10.0}
"""Seconds of wall time that rewriting a test kernel may take."""
AIM_LEN = 500_000_000
"""Bytes of memory that rewriting may take."""


@dataclass(frozen=True, slots=True)
class ProcessUse:
    """Use of one process: seconds and bytes."""

    wall_s: float
    cpu_s: float
    peak_len: int


@dataclass(frozen=True, slots=True)
class CommandCost:
    """One command on one kernel, over all rounds."""

    command: str
    wall_s: RunResults
    cpu_s: RunResults
    peak_len: int
    """The greatest of all rounds."""
    times_objdump: RunResults
    """CPU time over that of objdump in the same round: other load hardly changes it."""


def measure(vmlinux: Path, rounds: int) -> list[CommandCost]:
    """Run every command `rounds` times on a kernel. Raises EnvironmentProblem if one fails."""
    if shutil.which(DISASSEMBLER) is None:
        raise EnvironmentProblem(
            f"{DISASSEMBLER} is missing", hint="Debian: apt-get install binutils"
        )
    with tempfile.TemporaryDirectory() as scratch:
        steps = _steps(str(vmlinux), str(Path(scratch) / "vmlinux.vmi"))
        table = [[run(command) for _, command in steps] for _ in range(rounds)]
    columns = list(zip(*table, strict=True))
    yardstick = RunResults.of(done.cpu_s for done in columns[0])
    return [_cost(name, runs, yardstick) for (name, _), runs in zip(steps, columns, strict=True)]


def _steps(kernel: str, output: str) -> list[tuple[str, list[str]]]:
    """The commands of a round, in the order in which they need each other; the yardstick first."""
    return [
        ("objdump -d", [DISASSEMBLER, "-d", kernel]),
        ("scan", [*VMIPATCH, "scan", kernel]),
        ("rewrite", [*VMIPATCH, "rewrite", kernel, "-o", output]),
        ("verify --static", [*VMIPATCH, "verify", "--static", output, "--original", kernel]),
    ]


def run(command: list[str]) -> ProcessUse:
    """Run a command without input, its output thrown away, and account for it.

    Raises EnvironmentProblem if the command fails.
    """
    accountant = [sys.executable, "-I", account.__file__, *command]
    done = subprocess.run(accountant, stdout=subprocess.PIPE, check=True, text=True)
    used = json.loads(done.stdout)
    if used["exit_code"] != ExitCode.SUCCESS:
        raise EnvironmentProblem(
            f"`{' '.join(command)}` ended with exit code {used['exit_code']}",
            hint="its own message is above",
        )
    return ProcessUse(used["wall_s"], used["cpu_s"], used["peak_len"])


def _cost(name: str, runs: Sequence[ProcessUse], yardstick: RunResults) -> CommandCost:
    cpu_s = RunResults.of(done.cpu_s for done in runs)
    return CommandCost(
        name,
        RunResults.of(done.wall_s for done in runs),
        cpu_s,
        max(done.peak_len for done in runs),
        cpu_s.ratio_to(yardstick),
    )

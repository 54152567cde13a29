# SPDX-License-Identifier: MIT
"""What does a command cost, run as a process of its own: memory at its peak, and CPU time?"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.cli.commands import COMMAND, ENVIRONMENT

KIB_PER_MB = 1_000_000 / 1024


@dataclass(frozen=True, slots=True)
class Measured:
    """How a command ended, and what it took."""

    returncode: int
    stderr: str
    peak_mb: float
    """Resident memory at its peak."""
    cpu_s: float


LAUNCHER = """
import json, os, sys
pid = os.spawnvp(os.P_NOWAIT, sys.argv[2], sys.argv[2:])
_, status, usage = os.wait4(pid, 0)
found = os.waitstatus_to_exitcode(status), usage.ru_maxrss, usage.ru_utime + usage.ru_stime
with open(sys.argv[1], "w") as file:
    json.dump(found, file)
"""
"""Starts the command from a small process: Linux counts to a child what its parent had in memory
when it called execve (getrusage(2), ru_maxrss)."""


def measured(*arguments: str | Path) -> Measured:
    """Run vmipatch to its end."""
    with tempfile.TemporaryFile() as complaints, tempfile.NamedTemporaryFile() as result:
        subprocess.run(
            [sys.executable, "-I", "-c", LAUNCHER, result.name, *COMMAND, *map(str, arguments)],
            stdout=subprocess.DEVNULL,
            stderr=complaints,
            env=ENVIRONMENT,
            check=True,
        )
        complaints.seek(0)
        text = complaints.read().decode()
        returncode, peak_kib, cpu_s = json.load(result)
    return Measured(returncode, text, peak_kib / KIB_PER_MB, cpu_s)

# SPDX-License-Identifier: MIT
"""What does `vmipatch` make of a kernel, run as a user runs it? A process with limits, measured."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.cli.commands import COMMAND, ENVIRONMENT

ADDRESS_SPACE_LEN = 12 << 30
"""A command that asks for more has gone astray."""
POLL_S = 0.2
MESSAGE_LEN = 600
_DIRECTORIES = re.compile(r"(?<![\w.])/(?:[^\s/:]+/)+")
INTERNAL = -1
"""Exit code of a process that a signal ended."""


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended, and what it took."""

    returncode: int
    stdout: str
    stderr: str
    cpu_s: float
    """Of all processors, and of the processes it started."""
    peak_mib: int
    timed_out: bool = False

    @property
    def message(self) -> str:
        """The complaint, in one line."""
        if self.timed_out:
            return f"not at its end after {self.cpu_s:.0f} s of CPU time"
        lines = [line.strip() for line in self.stderr.splitlines() if line.strip()]
        if self.returncode == INTERNAL:
            lines.append("ended by a signal")
        return without_places(" / ".join(lines[-3:]))[:MESSAGE_LEN]


def without_places(text: str) -> str:
    """A message in which files are named without their directories, which say something of a host.

    >>> without_places("/var/cache/tiny/vmlinux: no symbols")
    'vmlinux: no symbols'
    """
    return _DIRECTORIES.sub("", text)


def vmipatch(*arguments: str | Path, timeout_s: float, cwd: Path) -> Ran:
    """Run a command of vmipatch to its end, or to its limits."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=cwd,
            env=ENVIRONMENT,
            start_new_session=True,
        )
        limits = (ADDRESS_SPACE_LEN, ADDRESS_SPACE_LEN)
        resource.prlimit(process.pid, resource.RLIMIT_AS, limits)
        status, usage, timed_out = _wait(process, timeout_s)
        out.seek(0)
        err.seek(0)
        texts = (stream.read().decode(errors="replace") for stream in (out, err))
        stdout, stderr = texts
    code = os.waitstatus_to_exitcode(status)
    return Ran(
        max(code, INTERNAL),
        stdout,
        stderr,
        round(usage.ru_utime + usage.ru_stime, 1),
        usage.ru_maxrss >> 10,
        timed_out,
    )


def _wait(
    process: subprocess.Popen[bytes], timeout_s: float
) -> tuple[int, resource.struct_rusage, bool]:
    """Exit status, resources of the process and of its children, whether it ran out of time.

    Ends the whole session at the time limit: a command may have started others.
    """
    end_s = time.monotonic() + timeout_s
    timed_out = False
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return status, usage, timed_out
        if time.monotonic() > end_s and not timed_out:
            timed_out = True
            os.killpg(process.pid, signal.SIGKILL)
        time.sleep(POLL_S)

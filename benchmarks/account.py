# SPDX-License-Identifier: MIT
"""What does a command use? Runs one without input, its output thrown away, and prints the account.

A program of its own: Linux counts the memory of a process's parent as that process's too, so
it has to be started by something small (getrusage(2), ru_maxrss survives execve).
"""

from __future__ import annotations

import json
import os
import sys
import time


def account(command: list[str]) -> dict[str, float]:
    """Seconds of wall and of CPU time, the peak of memory in bytes, and the exit code."""
    silence = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
    ]
    start = time.monotonic()
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=silence)
    _, status, usage = os.wait4(pid, 0)
    return {
        "wall_s": time.monotonic() - start,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_len": usage.ru_maxrss * 1024,  # Linux gives KiB
        "exit_code": os.waitstatus_to_exitcode(status),
    }


if __name__ == "__main__":
    print(json.dumps(account(sys.argv[1:])))

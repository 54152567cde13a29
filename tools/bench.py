# SPDX-License-Identifier: MIT
"""What scan, rewrite and verify cost on a kernel: wall time, CPU time and peak memory.

Each command runs in a process of its own, as a user runs it; the kernel accounts for it.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from vmipatch.errors import EnvironmentProblem

VMIPATCH = Path(sys.executable).with_name("vmipatch")


@dataclass(frozen=True, slots=True)
class Cost:
    """What one process used: seconds and bytes, and how it ended."""

    wall_s: float
    cpu_s: float
    peak_len: int
    exit_code: int


def measure(arguments: list[str]) -> Cost:
    """Run `vmipatch` with `arguments`, its output thrown away, and account for it."""
    command = [str(VMIPATCH), *arguments]
    silence = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    start = time.monotonic()
    pid = os.posix_spawn(command[0], command, os.environ, file_actions=silence)
    _, status, usage = os.wait4(pid, 0)
    wall_s = time.monotonic() - start
    # Linux gives ru_maxrss in KiB.
    peak_len = usage.ru_maxrss * 1024
    exit_code = os.waitstatus_to_exitcode(status)
    return Cost(wall_s, usage.ru_utime + usage.ru_stime, peak_len, exit_code)


def steps(kernel: Path, scratch: Path) -> Iterator[tuple[str, list[str]]]:
    """The commands to measure on `kernel`, in the order in which they need each other."""
    out = str(scratch / "vmlinux.vmi")
    yield "scan", ["scan", str(kernel)]
    yield "rewrite", ["rewrite", str(kernel), "-o", out]
    yield "verify", ["verify", "--static", out, "--original", str(kernel)]


def best(arguments: list[str], times: int) -> Cost:
    """The run with the least wall time; a failed run ends the measurement."""
    costs = []
    for _ in range(times):
        cost = measure(arguments)
        if cost.exit_code:
            raise EnvironmentProblem(
                f"`vmipatch {' '.join(arguments)}` ended with exit code {cost.exit_code}",
                hint="its own message is above",
            )
        costs.append(cost)
    return min(costs, key=lambda cost: cost.wall_s)


def known_kernels() -> list[Path]:
    """Every `*/vmlinux` of the directory that VMIPATCH_KERNELS names.

    Raises EnvironmentProblem if it names none.
    """
    directory = os.environ.get("VMIPATCH_KERNELS", "")
    found = sorted(Path(directory).glob("*/vmlinux")) if directory else []
    if not found:
        raise EnvironmentProblem(
            "no kernel to measure",
            hint="name vmlinux files, or set VMIPATCH_KERNELS to a directory of NAME/vmlinux",
        )
    return found


def table(kernels: list[Path], times: int) -> Iterator[str]:
    """The lines of the report, each as soon as it is known."""
    yield f"{'kernel':<20} {'command':<8} {'wall s':>8} {'cpu s':>8} {'peak MiB':>9}"
    for kernel in kernels:
        with tempfile.TemporaryDirectory() as scratch:
            for name, arguments in steps(kernel, Path(scratch)):
                cost = best(arguments, times)
                yield (
                    f"{kernel.parent.name:<20} {name:<8} {cost.wall_s:8.2f}"
                    f" {cost.cpu_s:8.2f} {cost.peak_len / 2**20:9.0f}"
                )


@click.command()
@click.argument("kernels", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--times", default=3, show_default=True, help="Runs of each; the quickest counts.")
def main(kernels: tuple[Path, ...], times: int) -> None:
    """Measure vmipatch on KERNELS (default: all of VMIPATCH_KERNELS)."""
    try:
        if not VMIPATCH.exists():
            raise EnvironmentProblem("vmipatch is not installed here", hint="run `make bench`")
        for line in table(list(kernels) or known_kernels(), times):
            click.echo(line)
    except EnvironmentProblem as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

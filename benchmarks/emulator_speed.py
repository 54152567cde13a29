# SPDX-License-Identifier: MIT
"""How fast is the emulator, beside QEMU's TCG with the same kernel, and where does its time go?

A round boots the kernel once in each way, one after the other, each in a process of its own. QEMU
waits while the guest idles and the emulator does not, so the ratio to believe is that of CPU times.
Where the time goes is asked of perf, in one more run of each mode.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.counting import FINISHED
from benchmarks.native_runs import bzimage_of
from benchmarks.rewrite_speed import run
from benchmarks.sample import RunResults
from tests.support import qemu
from vmipatch.choices import Mode
from vmipatch.emu.processor.engine import PLAIN_UNICORN
from vmipatch.errors import EnvironmentProblem
from vmipatch.image.elf import ElfImage
from vmipatch.rewrite import RewriteOptions, rewrite

WORKLOAD = "baseline.sh"
COMMAND_LINE = (
    "console=ttyS0 earlyprintk=serial,ttyS0 reboot=t panic=-1 "
    "tsc=reliable tsc_early_khz=1000000 lpj=5000000"
)
KERNELS = {
    "tiny": COMMAND_LINE,
    "debian-686": f"{COMMAND_LINE} nosmp noapic nolapic acpi=off cryptomgr.notests",
}
"""And their command lines: Debian's without tests of ciphers, which take longer than the rest."""
YARDSTICK = "QEMU TCG"
PLAIN = "plain"
"""With Unicorn's code as it was installed (docs/decisions/0022 and 0023)."""
AIMS_TIMES_QEMU = {"tiny": 3.0, "debian-686": 2.2}
"""Of the native run, CPU time."""
AIM_TIMES_NATIVE = 1.1
"""Of the paravirtual run, CPU time."""
MODES = (Mode.NATIVE, Mode.TRAP, Mode.PARAVIRT)
WAYS = (YARDSTICK, *(mode.value for mode in MODES), f"{Mode.NATIVE.value}, {PLAIN}")
NEEDED = (YARDSTICK, Mode.NATIVE.value)
"""Measured always: the others are compared with these."""

_PERF = ("perf", "record", "--quiet", "--event", "cpu-clock", "--freq", "499", "--output")
_PERF_REPORT = ("perf", "report", "--stdio", "--sort", "dso", "--field-separator", ",", "--input")
_PERF_ROW = re.compile(r"\s*([\d.]+)%\s*,(.+?)\s*")
_JIT = re.compile(r"//anon|\[anon.*|anon_inode.*|\[unknown\]|\[JIT\].*|.*/dev/zero.*")
_PYTHON = re.compile(r"(lib)?python.*|_ctypes.*|libffi.*|.*\.cpython-.*")


@dataclass(frozen=True, slots=True)
class Part:
    """So much of the CPU time was spent in one kind of code."""

    where: str
    per_cent: float


@dataclass(frozen=True, slots=True)
class BootCost:
    """One way to boot a kernel, over all rounds."""

    kernel: str
    way: str
    wall_s: RunResults
    cpu_s: RunResults
    times_qemu: RunResults
    """CPU time over that of QEMU in the same round."""
    times_qemu_wall: RunResults
    times_native: RunResults
    """CPU time over that of the emulator's native mode in the same round."""
    times_native_wall: RunResults
    parts: tuple[Part, ...]
    """Where the time went, the greatest first; empty for QEMU, and without perf."""


def measure(
    kernel: str, vmlinux: bytes, initrd: Path, rounds: int, scratch: Path, ways: Collection[str]
) -> list[BootCost]:
    """Boot a kernel `rounds` times in each way. Raises EnvironmentProblem if one does not end.

    `kernel`: one of KERNELS; `ways`: those of WAYS that are measured beside NEEDED.
    """
    every = _commands(kernel, vmlinux, initrd, scratch)
    commands = {way: every[way] for way in WAYS if way in ways or way in NEEDED}
    table = [[run(command) for command in commands.values()] for _ in range(rounds)]
    columns = dict(zip(commands, zip(*table, strict=True), strict=True))
    wall_s = {way: RunResults.of(done.wall_s for done in runs) for way, runs in columns.items()}
    cpu_s = {way: RunResults.of(done.cpu_s for done in runs) for way, runs in columns.items()}
    native = Mode.NATIVE.value
    return [
        BootCost(
            kernel,
            way,
            wall_s[way],
            cpu_s[way],
            cpu_s[way].ratio_to(cpu_s[YARDSTICK]),
            wall_s[way].ratio_to(wall_s[YARDSTICK]),
            cpu_s[way].ratio_to(cpu_s[native]),
            wall_s[way].ratio_to(wall_s[native]),
            () if way == YARDSTICK else _parts(command, scratch),
        )
        for way, command in commands.items()
    ]


def _commands(kernel: str, vmlinux: bytes, initrd: Path, scratch: Path) -> dict[str, list[str]]:
    """The commands of a round, by the name of the way. Raises EnvironmentProblem without QEMU."""
    if shutil.which(qemu.EMULATOR) is None:
        raise EnvironmentProblem(
            f"{qemu.EMULATOR} is missing", hint="Debian: apt-get install qemu-system-x86"
        )
    original, rewritten = scratch / "vmlinux", scratch / "vmlinux.vmi"
    original.write_bytes(vmlinux)
    rewritten.write_bytes(rewrite(ElfImage.parse(vmlinux, kernel), RewriteOptions()).data)
    bzimage = bzimage_of(vmlinux, scratch / "bzImage")
    yardstick = [
        qemu.EMULATOR,
        "-accel",
        "tcg,thread=single",
        "-nographic",
        "-no-reboot",
        "-nic",
        "none",
    ]
    yardstick += ["-m", "256", "-kernel", str(bzimage), "-initrd", str(initrd)]
    yardstick += ["-append", KERNELS[kernel]]
    _check(yardstick)
    commands = {YARDSTICK: yardstick}
    for mode in MODES:
        path = rewritten if mode.has_rom else original
        boot = [sys.executable, "-m", "benchmarks.emulated_boot", mode.value, str(path)]
        commands[mode.value] = [*boot, str(initrd), KERNELS[kernel]]
    native = Mode.NATIVE.value
    commands[f"{native}, {PLAIN}"] = ["env", f"{PLAIN_UNICORN}=1", *commands[native]]
    return commands


def _check(yardstick: list[str]) -> None:
    """QEMU's exit code does not say whether the workload came to its end: look at the console."""
    done = subprocess.run(yardstick, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if FINISHED.encode() not in done.stdout:
        complaint = (done.stderr or done.stdout[-2000:]).decode(errors="replace")
        raise EnvironmentProblem("the workload did not finish in QEMU", hint=complaint)


def _parts(command: list[str], scratch: Path) -> tuple[Part, ...]:
    """Ask perf; where it is missing or forbidden there is no answer."""
    if shutil.which(_PERF[0]) is None:
        return ()
    data = str(scratch / "perf.data")
    recorded = subprocess.run([*_PERF, data, "--", *command], capture_output=True, check=False)
    if recorded.returncode:
        return ()
    report = subprocess.run([*_PERF_REPORT, data], capture_output=True, text=True, check=False)
    return parts_of(report.stdout.splitlines())


def parts_of(rows: Iterable[str]) -> tuple[Part, ...]:
    """From perf's rows `per cent,object` to the kinds of code, the greatest first."""
    parts: dict[str, float] = {}
    for row in rows:
        if found := _PERF_ROW.fullmatch(row):
            where = _kind_of(found[2])
            parts[where] = parts.get(where, 0.0) + float(found[1])
    ordered = sorted(parts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Part(where, per_cent) for where, per_cent in ordered)


def _kind_of(name: str) -> str:
    """The kind of code in an object, by perf's name of it."""
    if _JIT.fullmatch(name) or name.startswith("perf-"):
        return "translated code"
    if "unicorn" in name:
        return "libunicorn"
    if _PYTHON.fullmatch(name):
        return "Python and ctypes"
    return "host kernel" if name.startswith("[kernel") else "other libraries"

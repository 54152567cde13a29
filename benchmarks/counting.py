# SPDX-License-Identifier: MIT
"""How many instructions does a kernel execute up to the end of a workload, and where?

A plugin of our own counts inside QEMU (plugin/count.c). Runs are comparable because nothing of the
host reaches the guest: time is a fixed number of nanoseconds for each instruction, an idle
processor skips to its next timer, and the real-time clock starts at a given date and follows that
time. Two runs with the same arguments are the same to the last instruction.
"""

from __future__ import annotations

import datetime
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support import qemu
from vmipatch.errors import EnvironmentProblem
from vmipatch.image.elf import ElfImage

SOURCE = Path(__file__).with_name("plugin") / "count.c"
COMPILER = ("gcc", "-shared", "-fPIC", "-O2", "-std=c11", "-D_GNU_SOURCE")
COMPILER_CHECKS = ("-Wall", "-Wextra", "-Werror", "-fvisibility=hidden")

SHIFT = 2
"""An instruction takes 2**SHIFT ns: 250 million in a second."""
FIRST_DAY = datetime.date(2000, 1, 1)
COMMAND_LINE = "nokaslr"
TIME_LIMIT_S = 600
FINISHED = "VMI-MARK done"


@dataclass(frozen=True, slots=True, order=True)
class CountedRange:
    """Instructions that begin in [start_va, end_va)."""

    start_va: int
    end_va: int


@dataclass(frozen=True)
class Counts:
    """Executions from the kernel's first instruction on."""

    total: int
    """Every instruction; a repeated string instruction anew for each iteration."""
    repeats: int
    """How many of `total` were iterations of repeated string instructions."""
    ranges: tuple[CountedRange, ...]
    executed: tuple[int, ...]
    """The number of executed instructions that began in each of `ranges`."""

    @property
    def instructions(self) -> int:
        """`total` without repeated string instructions: a little less than a processor counts.

        As the denominator of a cost it makes the cost look a little greater, never smaller.
        """
        return self.total - self.repeats

    @property
    def watched_instructions(self) -> int:
        """Instructions in all ranges, less all repeats: again rather too few than too many."""
        return sum(self.executed) - self.repeats

    def at(self) -> dict[int, int]:
        """Executions by the start address of each range."""
        starts = (entry.start_va for entry in self.ranges)
        return dict(zip(starts, self.executed, strict=True))


@dataclass(frozen=True, slots=True)
class CountingMachine:
    """The part of a run that is the same for every kernel."""

    plugin: Path
    initrd: Path
    shift: int = SHIFT

    def count(
        self, bzimage: Path, begin_pa: int, ranges: Sequence[CountedRange], run: int = 0
    ) -> Counts:
        """Boot `bzimage` (one processor) to the end of the workload and count.

        Counting begins with the instruction at linear address `begin_pa`. `ranges` ascend and do
        not overlap. Another `run` starts on another day: the kernel's random numbers, and with
        them the layout of processes, come out differently. Raises EnvironmentProblem if the
        workload does not finish.
        """
        with tempfile.TemporaryDirectory() as scratch:
            watched, result = Path(scratch) / "ranges", Path(scratch) / "counts"
            extra = plugin_arguments(self.plugin, watched, ranges, begin_pa, result)
            extra += reproducible(self.shift, run)
            boot = qemu.boot(
                bzimage,
                self.initrd,
                append=COMMAND_LINE,
                extra=extra,
                timeout_s=TIME_LIMIT_S,
            )
            if boot.ending is not qemu.QemuEnding.RESET or FINISHED not in boot.console:
                raise EnvironmentProblem(
                    "the workload did not finish",
                    file=bzimage.name,
                    hint=str(boot)[-2000:] or "QEMU said nothing",
                )
            return read_counts(result, ranges)


def build_plugin(directory: Path) -> Path:
    """Compile the plugin into `directory`. Raises EnvironmentProblem without a compiler."""
    if shutil.which(COMPILER[0]) is None:
        raise EnvironmentProblem("gcc is missing", hint="Debian: apt-get install gcc libc6-dev")
    library = directory / "count.so"
    command = [*COMPILER, *COMPILER_CHECKS, "-o", str(library), str(SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EnvironmentProblem("the plugin does not compile", hint=done.stderr)
    return library


def plugin_arguments(
    plugin: Path, watched: Path, ranges: Iterable[CountedRange], begin_va: int, result: Path
) -> list[str]:
    """QEMU's arguments for counting; the ranges are written to the file `watched`."""
    watched.write_text("".join(f"{r.start_va:x} {r.end_va:x}\n" for r in ranges))
    # QEMU ends an argument at a comma, unless it is doubled.
    library, watched_name, result_name = (
        str(path).replace(",", ",,") for path in (plugin, watched, result)
    )
    return [
        "-plugin",
        f"{library},ranges={watched_name},begin={begin_va:x},out={result_name}",
    ]


def reproducible(shift: int, run: int) -> list[str]:
    """QEMU's arguments for a guest that sees nothing of the host."""
    day = FIRST_DAY + datetime.timedelta(days=run)
    return [
        *("-icount", f"shift={shift},sleep=off"),
        *("-rtc", f"base={day.isoformat()},clock=vm"),
        *("-seed", "1"),
    ]


def read_counts(result: Path, ranges: Sequence[CountedRange]) -> Counts:
    """Counts that the plugin wrote. Raises EnvironmentProblem if counting never began."""
    lines = result.read_text().splitlines() if result.exists() else []
    words = [line.split()[-1] for line in lines]
    if len(words) != len(ranges) + 3 or words[0] != "1":
        raise EnvironmentProblem(
            "the plugin counted nothing",
            hint="this QEMU may have no plugins, or the guest never reached its first instruction",
        )
    total, repeats, *executed = map(int, words[1:])
    return Counts(total, repeats, tuple(ranges), tuple(executed))


def with_gaps(watched: Iterable[CountedRange], span: CountedRange) -> Iterator[CountedRange]:
    """`watched` (sorted here) and what lies between them in `span`: together, all of it."""
    reached = span.start_va
    for entry in sorted(watched):
        if reached < entry.start_va:
            yield CountedRange(reached, entry.start_va)
        yield entry
        reached = entry.end_va
    if reached < span.end_va:
        yield CountedRange(reached, span.end_va)


def span_of(image: ElfImage) -> CountedRange:
    """All linked addresses of a kernel."""
    loads = list(image.loads)
    return CountedRange(min(s.va for s in loads), max(s.va + s.mem_len for s in loads))


def entry_pa(image: ElfImage) -> int:
    """Where the kernel's first instruction is executed, before paging."""
    for segment in image.loads:
        if segment.va <= image.entry < segment.va + segment.mem_len:
            return image.entry - segment.va + segment.pa
    return image.entry

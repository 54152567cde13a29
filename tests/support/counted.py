# SPDX-License-Identifier: MIT
"""How often does a boot execute each of the given addresses, and what does a trace ROM write?

Boots are reproducible to the last instruction (benchmarks/counting.py). The CPU is one without
SSE2: on others the kernel replaces its `rdtsc` sites by `lfence; rdtsc` after the runtime has
patched them, and an execution of such a place is not a call any more.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from benchmarks.counting import (
    SHIFT,
    CountedRange,
    entry_pa,
    plugin_arguments,
    read_counts,
    reproducible,
)
from tests.support.gdbstub import Starter, Stub, visit
from tests.support.qemu import QemuBoot
from tests.support.roms import trace_arguments
from vmipatch.image.elf import ElfImage
from vmipatch.vmi.calls import VmiCall

WITHOUT_SSE2 = ("-cpu", "pentium3")
RUN = 0


@dataclass(frozen=True)
class Counted:
    """Executions from the kernel's first instruction on."""

    boot: QemuBoot
    at: Counter[int]
    """Executions by address; a repeated string instruction anew for each iteration."""
    calls: Counter[VmiCall]
    """Output of the trace ROM, by call."""

    def since(self, before: Counted) -> Counted:
        """The counts after an earlier stop of the same boot."""
        return Counted(self.boot, self.at - before.at, self.calls - before.calls)


def count(
    start: Starter, plugin: Path, image: ElfImage, vas: Collection[int], stop_va: int | None = None
) -> Counted:
    """Boot `image` to its end, or until it is about to execute `stop_va`, and count at `vas`.

    Raises EnvironmentProblem if the kernel was never reached.
    """
    ranges = [CountedRange(va, va + 1) for va in sorted(set(vas))]
    with tempfile.TemporaryDirectory() as scratch:
        watched, result, trace = (Path(scratch) / name for name in ("ranges", "counts", "trace"))
        arguments = (
            *WITHOUT_SSE2,
            *reproducible(SHIFT, RUN),
            *plugin_arguments(plugin, watched, ranges, entry_pa(image), result),
            *trace_arguments(trace),
        )

        def look(stub: Stub) -> None:
            if stop_va is None:
                stub.let_go()
            else:
                stub.run_to(stop_va)
                stub.end()

        boot, _ = visit(lambda more: start(arguments + more), look)
        executed = read_counts(result, ranges).at()
        return Counted(boot, Counter(executed), Counter(map(VmiCall, trace.read_bytes())))

# SPDX-License-Identifier: MIT
"""What does the proof of a distribution's kernel cost, beside one `objdump -d` of the proven file?

Their debug information is nine tenths of what is read, so they stand apart from the test kernels.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rewrite_speed import DISASSEMBLER, VMIPATCH, run
from benchmarks.sample import RunResults
from tests.support import kernels
from vmipatch.errors import EnvironmentProblem

AIM_S = 60.0
"""CPU seconds that `verify --static` may take."""
AIM_LEN = 1 << 30
"""Bytes of memory that it may take."""


@dataclass(frozen=True, slots=True)
class ProofCost:
    """One way to verify one kernel, over all rounds."""

    kernel: str
    command: str
    cpu_s: RunResults
    peak_len: int
    """The greatest of all rounds."""
    times_objdump: RunResults


def measure(rounds: int) -> list[ProofCost]:
    """Verify every kernel of a distribution that has been fetched. Raises EnvironmentProblem."""
    if shutil.which(DISASSEMBLER) is None:
        raise EnvironmentProblem(
            f"{DISASSEMBLER} is missing", hint="Debian: apt-get install binutils"
        )
    found = ((name, kernels.find_distro(name)) for name in kernels.DISTRO_FLAVOURS)
    return [
        cost
        for name, kernel in found
        if kernel is not None
        for cost in _of_kernel(name, str(kernel.vmlinux), rounds)
    ]


def _of_kernel(name: str, original: str, rounds: int) -> Iterator[ProofCost]:
    with tempfile.TemporaryDirectory() as scratch:
        output = str(Path(scratch) / "vmlinux.vmi")
        run([*VMIPATCH, "rewrite", original, "-o", output])
        verify = [*VMIPATCH, "verify", output]
        ways = {"--static": [*verify, "--static", "--original", original],
                "--sites": [*verify, "--sites", "--states", "20"]}  # fmt: skip
        table = [
            [run([DISASSEMBLER, "-d", output]), *map(run, ways.values())] for _ in range(rounds)
        ]
    yardstick, *columns = zip(*table, strict=True)
    for way, runs in zip(ways, columns, strict=True):
        cpu_s = RunResults.of(done.cpu_s for done in runs)
        times = cpu_s.ratio_to(RunResults.of(done.cpu_s for done in yardstick))
        yield ProofCost(name, f"verify {way}", cpu_s, max(r.peak_len for r in runs), times)


def proof_lines(costs: Sequence[ProofCost]) -> Iterator[str]:
    """The table: median and spread of all rounds."""
    yield "Proof of a distribution's kernels, beside one `objdump -d` of the proven file"
    yield ""
    if not costs:
        yield "none has been fetched: `make test-distro` does"
        yield ""
        return
    head = f"{'kernel':<16}{'command':<17}{'cpu s':<23}{'peak MB':>7}  {'times objdump':<21}aim"
    yield head
    for cost in costs:
        yield (
            f"{cost.kernel:<16}{cost.command:<17}{cost.cpu_s.to_text(1):<23}"
            f"{cost.peak_len / 1e6:>7.0f}  {cost.times_objdump.to_text(1):<21}{_aim(cost)}"
        ).rstrip()
    yield ""


def _aim(cost: ProofCost) -> str:
    if not cost.command.endswith("--static"):
        return ""
    met = cost.cpu_s.median <= AIM_S and cost.peak_len <= AIM_LEN
    return f"{AIM_S:.0f} s, {AIM_LEN >> 30} GiB: {'met' if met else 'MISSED'}"

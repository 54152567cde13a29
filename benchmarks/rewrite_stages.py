# SPDX-License-Identifier: MIT
"""Where does the time of `vmipatch rewrite` go, stage by stage?

The command runs in a process of its own, in which this module stands around the functions that are
the stages: `python -m benchmarks.rewrite_stages ARGUMENT...` takes the arguments of the command and
prints what it found as JSON. A stage is CPU time of its own thread, without the stages inside it;
what a compressor's own program takes (gzip, lzop) is not counted.
"""

from __future__ import annotations

import gc
import importlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmipatch.errors import EnvironmentProblem

STAGES = {
    "read": (
        "vmipatch.files.open:read_file",
        "vmipatch.files.open:open_bytes",
        "vmipatch.files.rewriting:linked_kernel",
        "vmipatch.image.bzimage:unpack_payload",
    ),
    "compare": ("vmipatch.rewrite.bzimage:require_twin",),
    "scan": ("vmipatch.rewrite.rewrite:scan",),
    "plan": ("vmipatch.rewrite.rewrite:make_plan",),
    "relink": (
        "vmipatch.rewrite.rewrite:_annotate",
        "vmipatch.rewrite.rewrite:_all_words",
        "vmipatch.rewrite.rewrite:attach",
    ),
    "emit": (
        "vmipatch.rewrite.rewrite:emit_image",
        "vmipatch.rewrite.rewrite:seal",
        "vmipatch.rewrite.rewrite:renew_build_id",
        "vmipatch.rewrite.bzimage:relocation_list",
    ),
    "note": (
        "vmipatch.rewrite.rewrite:add_note",
        "vmipatch.rewrite.way_back:_kernel_note",
        "vmipatch.rewrite.way_back:frame_note",
    ),
    "prove": ("vmipatch.rewrite.bzimage:proven",),
    "boot code": ("vmipatch.rewrite.bzimage:repack",),
    "compress": ("vmipatch.image.repack.repack:pack_payload",),
    "find recipe": ("vmipatch.rewrite.bzimage:find_recipe",),
    "write": ("vmipatch.cli.rewrite:write_all",),
}
"""From a stage to the functions that are it, by the names under which they are called."""
REST = "the rest"
PACKING = ("compress", "find recipe")
"""Stages that do nothing but compress; the second runs beside the others."""


@dataclass(frozen=True, slots=True)
class StageCost:
    """One rewriting: seconds of CPU by stage, bytes."""

    what: str
    is_packed: bool
    """Whether it is a bzImage."""
    stages: dict[str, float]
    peak_len: int
    input_len: int
    output_len: int

    @property
    def growth_per_cent(self) -> float:
        """Of the file."""
        return 100 * self.output_len / self.input_len - 100


def measure_stages(what: str, kernel: Path, debug: Path | None = None) -> StageCost:
    """Rewrite `kernel` once. Raises EnvironmentProblem if that fails."""
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "output"
        command = [sys.executable, "-m", __name__, str(kernel), "-o", str(output)]
        command += [] if debug is None else ["--debug", str(debug)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
        if done.returncode:
            raise EnvironmentProblem(
                f"`{' '.join(command)}` ended with exit code {done.returncode}",
                hint="its own message is above",
            )
        found = json.loads(done.stdout)
        sizes = kernel.stat().st_size, output.stat().st_size
    return StageCost(what, debug is not None, found["stages"], found["peak_len"], *sizes)


class _Clock:
    """Adds up what each stage takes, in whatever thread it runs."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self._inner = [0.0]

    @contextmanager
    def stage(self, name: str, *, beside: bool) -> Iterator[None]:
        """One call of a stage; what runs `beside` the others takes nothing from them."""
        start = time.thread_time()
        if not beside:
            self._inner.append(0.0)
        yield
        took = time.thread_time() - start
        if not beside:
            inner = self._inner.pop()
            self._inner[-1] += took
            took -= inner
        self.spent[name] += took

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, measured as that stage."""

        def measured(*arguments: Any, **named: Any) -> Any:
            with self.stage(name, beside=name == "find recipe"):
                return function(*arguments, **named)

        return measured


def main(arguments: list[str]) -> int:
    """Run the command with a clock around its stages, and print what they took."""
    from vmipatch.cli.main import GC_THRESHOLD, run

    gc.set_threshold(GC_THRESHOLD)
    clock = _Clock()
    for name, functions in STAGES.items():
        for place in functions:
            module_name, attribute = place.split(":")
            module = importlib.import_module(module_name)
            setattr(module, attribute, clock.around(name, getattr(module, attribute)))
    code = run(["--quiet", "rewrite", *arguments])
    usage = resource.getrusage(resource.RUSAGE_SELF)
    total = usage.ru_utime + usage.ru_stime
    stages = {name: clock.spent[name] for name in STAGES}
    stages[REST] = total - sum(stages.values())
    # Linux gives ru_maxrss in KiB.
    print(json.dumps({"stages": stages, "peak_len": usage.ru_maxrss * 1024}))
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

# SPDX-License-Identifier: MIT
"""How does the benchmark say what it found: as text, as JSON."""

from __future__ import annotations

import enum
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.emulator_speed import AIM_TIMES_NATIVE, AIMS_TIMES_QEMU, BootCost
from benchmarks.native_cost import CostShare
from benchmarks.native_runs import AIMS, KernelCost, PaddingCost
from benchmarks.proof_cost import ProofCost
from benchmarks.rewrite_speed import AIM_LEN, AIM_S, CommandCost
from benchmarks.rewrite_stages import PACKING, StageCost
from benchmarks.tree_speed import AIM_S as TREE_AIM_S
from benchmarks.tree_speed import TreeCosts
from vmipatch.choices import Mode

SCHEMA = "vmipatch.bench/5"
MOST_GROWTH_PER_CENT = 2
SHARES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Speed:
    """The cost of all commands on one kernel."""

    kernel: str
    commands: tuple[CommandCost, ...]


def speed_lines(speeds: Sequence[Speed]) -> Iterator[str]:
    """The table of times: median and spread of all rounds."""
    yield "Time and memory, beside one `objdump -d` of the same file in the same round"
    yield ""
    yield (
        f"{'kernel':<9}{'command':<17}{'wall s':<23}{'cpu s':<23}{'peak MB':>7}"
        f"  {'times objdump (cpu)':<21}aim"
    )
    for speed in speeds:
        for cost in speed.commands:
            yield (
                f"{speed.kernel:<9}{cost.command:<17}{cost.wall_s.to_text(2):<23}"
                f"{cost.cpu_s.to_text(2):<23}{cost.peak_len / 1e6:>7.0f}"
                f"  {cost.times_objdump.to_text(1):<21}"
                f"{_speed_verdict(speed.kernel, cost)}"
            ).rstrip()
    yield ""


def _speed_verdict(kernel: str, cost: CommandCost) -> str:
    if cost.command != "rewrite" or kernel not in AIM_S:
        return ""
    met = cost.wall_s.median <= AIM_S[kernel] and cost.peak_len <= AIM_LEN
    return f"{AIM_S[kernel]:.0f} s, {AIM_LEN / 1e6:.0f} MB: {_verdict(met)}"


def tree_lines(costs: TreeCosts) -> Iterator[str]:
    """The table of commands on all modules of a kernel."""
    yield f"All {costs.modules} modules of {costs.kernel}, on {costs.processors} processors"
    yield ""
    yield f"{'command':<17}{'wall s':>8}{'cpu s':>8}{'peak MB of a process':>22}  aim"
    for each in costs.commands:
        cost, aim = each.cost, ""
        if each.command in ("rewrite", "verify"):
            aim = f"{TREE_AIM_S:.0f} s: {_verdict(cost.wall_s <= TREE_AIM_S)}"
        yield (
            f"{each.command + ' --tree':<17}{cost.wall_s:>8.1f}{cost.cpu_s:>8.1f}"
            f"{cost.peak_len / 1e6:>22.0f}  {aim}"
        ).rstrip()
    yield ""


def stage_lines(costs: Sequence[StageCost]) -> Iterator[str]:
    """The table of stages, one row a stage, one column a file."""
    yield "Rewriting, stage by stage: CPU seconds of one run, each file in a process of its own"
    yield ""
    yield f"{'stage':<18}" + "".join(f"{cost.what:>21}" for cost in costs)
    for stage in costs[0].stages:
        yield f"{stage:<18}" + "".join(f"{cost.stages[stage]:>21.2f}" for cost in costs)
    total = [sum(cost.stages.values()) for cost in costs]
    packing = [sum(cost.stages[stage] for stage in PACKING) for cost in costs]
    yield f"{'all':<18}" + "".join(f"{seconds:>21.2f}" for seconds in total)
    without = [a - b for a, b in zip(total, packing, strict=True)]
    yield f"{'without packing':<18}" + "".join(f"{seconds:>21.2f}" for seconds in without)
    yield f"{'peak MB':<18}" + "".join(f"{cost.peak_len / 1e6:>21.0f}" for cost in costs)
    yield f"{'growth, %':<18}" + "".join(f"{cost.growth_per_cent:>+21.2f}" for cost in costs)
    met = [
        _verdict(cost.growth_per_cent <= MOST_GROWTH_PER_CENT) if cost.is_packed else ""
        for cost in costs
    ]
    yield (f"{'at most 2 %':<18}" + "".join(f"{verdict:>21}" for verdict in met)).rstrip()
    yield ""


def emulator_lines(costs: Sequence[BootCost]) -> Iterator[str]:
    """The table of boots: median and spread of all rounds; below it, where the time went."""
    yield "The emulator to the end of a workload, beside QEMU TCG in the same round"
    yield ""
    yield (
        f"{'kernel':<12}{'way':<15}{'wall s':<23}{'cpu s':<23}{'times QEMU (cpu)':<23}"
        f"{'(wall)':<23}{'times native (cpu)':<23}{'(wall)':<23}aim"
    )
    for cost in costs:
        yield (
            f"{cost.kernel:<12}{cost.way:<15}{cost.wall_s.to_text(2):<23}{cost.cpu_s.to_text(2):<23}"
            f"{cost.times_qemu.to_text(2):<23}{cost.times_qemu_wall.to_text(2):<23}"
            f"{cost.times_native.to_text(2):<23}{cost.times_native_wall.to_text(2):<23}"
            f"{_emulator_verdict(cost)}"
        ).rstrip()
    yield ""
    for cost in costs:
        if cost.parts:
            shares = ", ".join(f"{part.where} {part.per_cent:.0f} %" for part in cost.parts)
            yield f"{cost.kernel}, {cost.way}: {shares}"
    yield ""


def _emulator_verdict(cost: BootCost) -> str:
    if cost.way == Mode.NATIVE.value:
        aim = AIMS_TIMES_QEMU[cost.kernel]
        return f"{aim} of QEMU (cpu): {_verdict(cost.times_qemu.median <= aim)}"
    if cost.way == Mode.PARAVIRT.value:
        met = cost.times_native.median <= AIM_TIMES_NATIVE
        return f"{AIM_TIMES_NATIVE} of native (cpu): {_verdict(met)}"
    return ""


def native_lines(costs: Sequence[KernelCost]) -> Iterator[str]:
    """The table of added instructions: median and spread of all runs, in per cent."""
    yield "Native cost: added instructions in per cent of those that the original executes"
    yield ""
    yield (
        f"{'kernel':<9}{'padding':<9}{'exact':<27}{'of the kernel':<27}{'met':<27}"
        f"{'whole run':<27}aim"
    )
    for cost in costs:
        for padding in cost.paddings:
            aim = AIMS[padding.padding]
            met = padding.exact_per_cent.median <= aim
            yield (
                f"{cost.kernel:<9}{padding.padding.value:<9}"
                f"{padding.exact_per_cent.to_text(4):<27}"
                f"{padding.exact_of_kernel_per_cent.to_text(4):<27}"
                f"{padding.met_per_cent.to_text(4):<27}"
                f"{padding.difference_per_cent.to_text(2):<27}"
                f"{aim:.2f}: {_verdict(met)}"
            )
    yield ""
    for cost in costs:
        for padding in cost.paddings:
            yield from _share_lines(cost.kernel, padding)


def _share_lines(kernel: str, padding: PaddingCost) -> Iterator[str]:
    first = padding.first
    yield (
        f"{kernel}, {padding.padding.value}: {first.added:,} instructions added"
        f" to {first.instructions:,} (first run)"
    )
    yield f"  {'by form':<40}by function"
    columns = (_top(first.forms, "forms"), _top(first.functions, "functions"))
    for form, function in itertools.zip_longest(*columns, fillvalue=""):
        yield f"  {form:<40}{function}".rstrip()
    yield ""


def _top(shares: Sequence[CostShare], noun: str) -> list[str]:
    """The greatest shares, and the others in one line."""
    shown = [(share.added, share.what) for share in shares[:SHARES_SHOWN]]
    if rest := shares[SHARES_SHOWN:]:
        shown.append((sum(share.added for share in rest), f"{len(rest)} other {noun}"))
    return [f"{added:>10,}  {what}" for added, what in shown]


def _verdict(met: bool) -> str:
    return "met" if met else "MISSED"


def to_json(
    speeds: Sequence[Speed],
    proofs: Sequence[ProofCost],
    stages: Sequence[StageCost],
    costs: Sequence[KernelCost],
    boots: Sequence[BootCost],
    tree: TreeCosts | None,
    runs: int,
) -> str:
    """All figures of all runs."""
    report = {
        "schema": SCHEMA,
        "runs": runs,
        "speed": [asdict(speed) for speed in speeds],
        "proof": [asdict(cost) for cost in proofs],
        "stages": [asdict(cost) for cost in stages],
        "native": [asdict(cost) for cost in costs],
        "emulator": [asdict(cost) for cost in boots],
        "modules": None if tree is None else asdict(tree),
    }
    return json.dumps(report, indent=2, sort_keys=True, default=_plain) + "\n"


def _plain(value: object) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    raise TypeError(f"{value!r} has no JSON form")

# SPDX-License-Identifier: MIT
"""How many seeded faults does the static proof find? `make mutants` writes docs/mutants.md.

Faults that are found at their places share a file, one a function; those that a file hides are
tried again on their own. Faults of the ROM are in no file: they are found by execution.

Equivalent is a fault that changes no byte of the file, and one of a thunk that does the same in
every one of STATES random states in which the emulator executes it: neither asks the proof.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from tests.support import kernels
from tests.verify.adversarial.page import kept_section
from tests.verify.faults import SeededFault, Victim
from tests.verify.mutants import ALONE, THUNKS, TOGETHER
from tests.verify.rom_faults import KINDS as ROM_KINDS
from tests.verify.rom_faults import REASON, rom_faults
from vmipatch.choices import Flavor
from vmipatch.errors import VmipatchError
from vmipatch.image.elf import ElfImage
from vmipatch.image.trim import without_debug
from vmipatch.rewrite.rewrite import RewriteOptions
from vmipatch.rom import build_rom
from vmipatch.verify.sites import check_sites
from vmipatch.verify.sites.shapes import SiteShape, patched_sites
from vmipatch.verify.static import StaticFinding, check_static, verdict

FOUND, EQUIVALENT, MISSED = "found", "equivalent", "missed"
OF_A_KIND = 10
"""Faults of each kind in one file."""
STATES = 300
"""Random states in which a thunk is executed that may be equivalent."""
PAGE = Path(__file__).parents[2] / "docs" / "mutants.md"


@dataclass(frozen=True, slots=True)
class FaultOutcome:
    """The outcome of one fault."""

    kind: str
    result: str
    what: str
    table: str = ""
    """The kernel table that was damaged, if one was."""


@dataclass(frozen=True, slots=True, eq=False)
class _Mutation:
    kind: str
    fault: SeededFault
    offs: np.ndarray
    """Offsets of the bytes of the file that differ from the whole one."""
    octets: np.ndarray


def try_together(victim: Victim, seed: int, of_a_kind: int = OF_A_KIND) -> list[FaultOutcome]:
    """Two files with faults of every kind of TOGETHER: those of thunks, and all the others."""
    dice = random.Random(seed)
    kinds = (TOGETHER.keys() - THUNKS, THUNKS)
    return [outcome for each in kinds for outcome in _try(victim, dice, each, of_a_kind)]


def _try(
    victim: Victim, dice: random.Random, kinds: AbstractSet[str], of_a_kind: int
) -> list[FaultOutcome]:
    """One file."""
    victim.heal()
    mutations: list[_Mutation] = []
    for name in dice.sample(sorted(kinds), len(kinds)):
        before = np.frombuffer(bytes(victim.data), np.uint8)
        for fault in TOGETHER[name](victim, dice, of_a_kind):
            now = np.frombuffer(bytes(victim.data), np.uint8)
            offs = np.flatnonzero(before != now)
            mutations.append(_Mutation(name, fault, offs, now[offs]))
            before = now
    return _judged(victim, mutations)


def _judged(victim: Victim, mutations: list[_Mutation]) -> list[FaultOutcome]:
    """Outcomes of faults that share a file, or two if one of them has it refused as a whole."""
    try:
        findings = _proven(victim, _damaged(victim, mutations))
    except VmipatchError:
        half = len(mutations) // 2
        if half:
            return _judged(victim, mutations[:half]) + _judged(victim, mutations[half:])
        findings = ()
    return [_judge(victim, mutation, findings) for mutation in mutations]


def _damaged(victim: Victim, mutations: list[_Mutation]) -> bytes:
    """The rewritten file with these faults."""
    octets = np.frombuffer(victim.result.data, np.uint8).copy()
    for mutation in mutations:
        octets[mutation.offs] = mutation.octets
    return octets.tobytes()


def try_alone(victim: Victim, name: str, seed: int) -> list[FaultOutcome]:
    """One file with one fault of a kind of ALONE."""
    victim.heal()
    return [
        FaultOutcome(name, _alone(victim, bytes(victim.data)), fault.what)
        for fault in ALONE[name](victim, random.Random(seed), 1)
    ]


def try_roms(victim: Victim, kind: str, seed: int, count: int) -> list[FaultOutcome]:
    """`count` ROMs with a fault of one kind, under the whole kernel."""
    return [
        FaultOutcome(kind, FOUND if found else MISSED, call.name)
        for call, found in rom_faults(victim.whole, kind, random.Random(seed), count)
    ]


def _judge(
    victim: Victim, mutation: _Mutation, findings: tuple[StaticFinding, ...]
) -> FaultOutcome:
    fault = mutation.fault
    if any(_points_at(finding, fault) for finding in findings):
        return FaultOutcome(mutation.kind, FOUND, fault.what, fault.table)
    data = _damaged(victim, [mutation])
    result = _alone(victim, data)
    if result == MISSED and fault.va in victim.thunk_vas and _does_the_same(data, fault.va):
        result = EQUIVALENT
    return FaultOutcome(mutation.kind, result, f"{fault}", fault.table)


def _does_the_same(data: bytes, thunk_va: int) -> bool:
    """Whether executing a site that calls the thunk shows no difference to its instruction."""
    image = ElfImage.parse(data, "mutant")
    shapes = [
        SiteShape(f"{site.kind} by {thunk_va:#x}", site, 1)
        for site in patched_sites(image)
        if site.thunk_va == thunk_va
    ]
    rom = build_rom(Flavor.PARAVIRT).data
    return not check_sites(image, rom, states=STATES, shapes=shapes[:1]).findings


def _alone(victim: Victim, data: bytes) -> str:
    if data == victim.result.data:
        return EQUIVALENT
    try:
        return FOUND if _proven(victim, data) else MISSED
    except VmipatchError:
        return FOUND


def _proven(victim: Victim, data: bytes) -> tuple[StaticFinding, ...]:
    """All findings. Raises VmipatchError if the file is refused."""
    verdict.KEPT_OF_A_RULE = 100_000
    return check_static(victim.original, ElfImage.parse(data, "mutant")).findings


def _points_at(finding: StaticFinding, fault: SeededFault) -> bool:
    inside = fault.va <= finding.va < fault.va + fault.length
    named = bool(fault.place) and fault.place in finding.place
    return inside or named or f"{fault.va:#x}" in finding.message


_victims: dict[str, Victim] = {}


def _victim(name: str) -> Victim:
    """The rewritten kernel; made once in each process."""
    if name not in _victims:
        _victims[name] = Victim(original_of(name), RewriteOptions())
    return _victims[name]


def original_of(name: str) -> ElfImage:
    """A test kernel, or a kernel by its path."""
    built = kernels.find(name) if name in kernels.RECIPES else None
    path = built.vmlinux if built else Path(name)
    return without_debug(ElfImage.parse(path.read_bytes(), path.parent.name))


@dataclass(frozen=True, slots=True)
class _Task:
    kernel: str
    kind: str
    """One that needs files of its own or a ROM; empty for a file with all the others."""
    seed: int
    count: int


def _work(task: _Task) -> tuple[str, list[FaultOutcome]]:
    victim = _victim(task.kernel)
    if task.kind in ROM_KINDS:
        done = try_roms(victim, task.kind, task.seed, task.count)
    elif task.kind:
        done = try_alone(victim, task.kind, task.seed)
    else:
        done = try_together(victim, task.seed, task.count)
    return victim.original.name, done


def main() -> None:
    """Run a campaign."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "order",
        nargs="+",
        type=_order,
        metavar="KERNEL:FILES:ALONE",
        help="a test kernel or the path of a vmlinux, how many files with faults of every kind to "
        "make, and how many for each kind that needs a file of its own",
    )
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--of-a-kind", type=int, default=OF_A_KIND, help="faults in one file")
    parser.add_argument("--output", type=Path, default=PAGE)
    parser.add_argument("--log", type=Path, help="keep outcomes here, and go on with what is there")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    given = parser.parse_args()
    log: Path | None = given.log
    kept = json.loads(log.read_text()) if log and log.exists() else {"seeds": [], "outcomes": []}
    kept["seeds"].append(given.seed)
    print(f"seed {given.seed}", flush=True)
    dice = random.Random(given.seed)
    tasks = [
        _Task(kernel, kind, dice.randrange(1 << 32), count)
        for kernel, files, alone in given.order
        for kind, times, count in (
            *(("", 1, given.of_a_kind) for _ in range(files)),
            *((kind, alone, 1) for kind in ALONE),
            *((kind, int(alone > 0), alone) for kind in ROM_KINDS),
        )
        for _ in range(times)
    ]
    every = [(name, FaultOutcome(*fields)) for name, *fields in kept["outcomes"]]
    context = multiprocessing.get_context("spawn")
    with context.Pool(given.workers) as pool:
        for number, (name, outcomes) in enumerate(pool.imap_unordered(_work, tasks, 1), 1):
            every += [(name, outcome) for outcome in outcomes]
            for outcome in outcomes:
                if outcome.result == MISSED:
                    print(f"missed: {name}: {outcome.kind}: {outcome.what}", flush=True)
            print(f"{number} of {len(tasks)} files", flush=True)
            given.output.write_text(page(every, kept["seeds"]) + kept_section(given.output))
            kept["outcomes"] = [(name, *astuple(outcome)) for name, outcome in every]
            if log:
                log.write_text(json.dumps(kept))


def _order(text: str) -> tuple[str, int, int]:
    kernel, files, alone = text.rsplit(":", 2)
    return kernel, int(files), int(alone)


def page(outcomes: Sequence[tuple[str, FaultOutcome]], seeds: Sequence[int]) -> str:
    """The tables of a campaign (kernel and outcome of each fault), as a document."""
    results = Counter(outcome.result for _, outcome in outcomes)
    seeded = results.total() - results[EQUIVALENT]
    in_files = [pair for pair in outcomes if pair[1].kind not in ROM_KINDS]
    by_kind = _table("kind of fault", [*TOGETHER, *ALONE], in_files, lambda outcome: outcome.kind)
    in_tables = [pair for pair in in_files if pair[1].table]
    tables = sorted({outcome.table for _, outcome in in_tables})
    by_table = _table("kernel table", tables, in_tables, lambda outcome: outcome.table)
    in_roms = [pair for pair in outcomes if pair[1].kind in ROM_KINDS]
    by_rom = _table("kind of fault", [*ROM_KINDS], in_roms, lambda outcome: outcome.kind)
    return f"""<!-- SPDX-License-Identifier: MIT -->
# Seeded faults

`make mutants` (tests/verify/campaign.py) damages rewritten kernels and asks `verify --static`.
Places are drawn by random seed over all sites, words and references. Each fault has to be found at
its place; one that has no finding there is tried again alone in a file, which must then be refused.
Equivalent, and not counted, is a fault that changes no byte of the file, and one of a thunk that
does what the instruction does in each of {STATES} random states in which the emulator executes it.

Seeds {", ".join(map(str, seeds))}: {results[FOUND]} of {seeded} faults found, \
{results[MISSED]} missed, {results[EQUIVALENT]} equivalent.

{by_kind}

Words of kernel tables (stale, off by one, exchanged) by table:

{by_table}

## Found by execution

Some faults are in no byte that the static check reads, since {REASON}.
`verify --sites` executes the sites that call the damaged entry, and has to find a difference.

{by_rom}
"""


def _table(
    title: str,
    rows: Sequence[str],
    outcomes: Sequence[tuple[str, FaultOutcome]],
    key: Callable[[FaultOutcome], str],
) -> str:
    """Found, of how many, and equivalent ones: one row each, three columns a kernel."""
    names = sorted({name for name, _ in outcomes})
    counts: dict[tuple[str, str], Counter[str]] = {}
    for name, outcome in outcomes:
        counts.setdefault((key(outcome), name), Counter())[outcome.result] += 1
    head = [f"| {title} |", *(f" {name}: found | of | equivalent |" for name in names)]
    lines = ["".join(head), "| --- |" + " ---: | ---: | ---: |" * len(names)]
    for row in rows:
        cells = [counts.get((row, name), Counter[str]()) for name in names]
        text = "".join(
            f" {c[FOUND]} | {c.total() - c[EQUIVALENT]} | {c[EQUIVALENT]} |" for c in cells
        )
        lines.append(f"| {row} |{text}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

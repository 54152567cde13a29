# SPDX-License-Identifier: MIT
"""How many seeded faults does the static proof find? `make mutants` writes docs/mutants.md.

Faults that are found at their places share a file, one a function; those that a file hides are
tried again on their own. A fault that changes no byte of the file is equivalent, which needs no
judgement of the proof.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.support import kernels
from tests.verify.faults import Fault, Victim
from tests.verify.mutants import ALONE, TOGETHER
from vmipatch.errors import VmipatchError
from vmipatch.image.elf import ElfImage
from vmipatch.image.trim import without_debug
from vmipatch.rewrite.rewrite import RewriteOptions
from vmipatch.verify.static import RULES, Finding, check_static, verdict

FOUND, EQUIVALENT, MISSED = "found", "equivalent", "missed"
OF_A_KIND = 10
"""Faults of each kind in one file."""
PAGE = Path(__file__).parents[2] / "docs" / "mutants.md"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one fault."""

    kind: str
    result: str
    what: str


@dataclass(frozen=True, slots=True, eq=False)
class _Mutation:
    kind: str
    fault: Fault
    offs: np.ndarray
    """Offsets of the bytes of the file that differ from the whole one."""
    octets: np.ndarray


def try_together(victim: Victim, seed: int, of_a_kind: int = OF_A_KIND) -> list[Outcome]:
    """One file with faults of every kind of TOGETHER."""
    victim.heal()
    dice = random.Random(seed)
    mutations: list[_Mutation] = []
    for name in dice.sample(sorted(TOGETHER), len(TOGETHER)):
        before = np.frombuffer(bytes(victim.data), np.uint8)
        for fault in TOGETHER[name](victim, dice, of_a_kind):
            now = np.frombuffer(bytes(victim.data), np.uint8)
            offs = np.flatnonzero(before != now)
            mutations.append(_Mutation(name, fault, offs, now[offs]))
            before = now
    findings = _findings(victim, bytes(victim.data))
    return [_judge(victim, m, findings) for m in mutations]


def try_alone(victim: Victim, name: str, seed: int) -> list[Outcome]:
    """One file with one fault of a kind of ALONE."""
    victim.heal()
    return [
        Outcome(name, _alone(victim, bytes(victim.data)), fault.what)
        for fault in ALONE[name](victim, random.Random(seed), 1)
    ]


def _judge(victim: Victim, mutation: _Mutation, findings: tuple[Finding, ...]) -> Outcome:
    if any(_points_at(finding, mutation.fault) for finding in findings):
        return Outcome(mutation.kind, FOUND, mutation.fault.what)
    data = np.frombuffer(victim.result.data, np.uint8).copy()
    data[mutation.offs] = mutation.octets
    return Outcome(mutation.kind, _alone(victim, data.tobytes()), f"{mutation.fault}")


def _alone(victim: Victim, data: bytes) -> str:
    if data == victim.result.data:
        return EQUIVALENT
    return FOUND if _findings(victim, data) else MISSED


def _findings(victim: Victim, data: bytes) -> tuple[Finding, ...]:
    """All findings; a file that is refused counts as one."""
    verdict.KEPT_OF_A_RULE = 100_000
    try:
        return check_static(victim.original, ElfImage.parse(data, "mutant")).findings
    except VmipatchError as error:
        place = error.place or "file"
        return (Finding(RULES[0], 0, place, f"refused: {error.message}"),)


def _points_at(finding: Finding, fault: Fault) -> bool:
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


def _work(task: tuple[str, str, int]) -> tuple[str, list[Outcome]]:
    name, kind, seed = task
    victim = _victim(name)
    done = try_alone(victim, kind, seed) if kind else try_together(victim, seed)
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
    parser.add_argument("--output", type=Path, default=PAGE)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    dice = random.Random(given.seed)
    tasks = [
        (kernel, kind, dice.randrange(1 << 32))
        for kernel, files, alone in given.order
        for kind, count in {**dict.fromkeys(ALONE, alone), "": files}.items()
        for _ in range(count)
    ]
    counts: dict[tuple[str, str], Counter[str]] = {}
    context = multiprocessing.get_context("spawn")
    with context.Pool(given.workers) as pool:
        for number, (name, outcomes) in enumerate(pool.imap_unordered(_work, tasks, 1), 1):
            for outcome in outcomes:
                counts.setdefault((outcome.kind, name), Counter())[outcome.result] += 1
                if outcome.result == MISSED:
                    print(f"missed: {name}: {outcome.kind}: {outcome.what}", flush=True)
            print(f"{number} of {len(tasks)} files", flush=True)
            given.output.write_text(page(counts, given.seed))


def _order(text: str) -> tuple[str, int, int]:
    kernel, files, alone = text.rsplit(":", 2)
    return kernel, int(files), int(alone)


def page(counts: dict[tuple[str, str], Counter[str]], seed: int) -> str:
    """The table of a campaign, as a document."""
    names = sorted({name for _, name in counts})
    kinds = [*TOGETHER, *ALONE]
    every = Counter[str]()
    for of_one in counts.values():
        every.update(of_one)
    head = ["| kind of fault |", *(f" {name}: found | of | equivalent |" for name in names)]
    lines = ["".join(head), "| --- |" + " ---: | ---: | ---: |" * len(names)]
    for kind in kinds:
        cells = [counts.get((kind, name), Counter[str]()) for name in names]
        row = "".join(
            f" {c[FOUND]} | {c.total() - c[EQUIVALENT]} | {c[EQUIVALENT]} |" for c in cells
        )
        lines.append(f"| {kind} |{row}")
    seeded = every.total() - every[EQUIVALENT]
    return f"""<!-- SPDX-License-Identifier: MIT -->
# Seeded faults

`make mutants` (tests/verify/campaign.py) damages rewritten kernels and asks `verify --static`.
Places are drawn by random seed over all sites, words and references. A fault that changes no byte
of the file is equivalent and not counted. Each other fault has to be found at its place; one that
has no finding there is tried again alone in a file, which must then be refused.

Seed {seed}: {every[FOUND]} of {seeded} faults found, {every[MISSED]} missed.

{chr(10).join(lines)}
"""


if __name__ == "__main__":
    main()

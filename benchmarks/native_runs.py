# SPDX-License-Identifier: MIT
"""What does the padding cost where no ROM is? Counted for the original, checked on the result."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.counting import CountedRange, CountingMachine, Counts, entry_pa, span_of, with_gaps
from benchmarks.native_cost import CostOfPlace, NativeCost, fillers, growths, native_cost, room
from benchmarks.sample import RunResults
from vmipatch.choices import Padding
from vmipatch.image.elf import ElfImage
from vmipatch.image.reloc_list import relocation_list
from vmipatch.image.relocations import Relocations
from vmipatch.image.wrap import wrap
from vmipatch.rewrite import RewriteOptions, RewrittenImage, rewrite

AIMS = {Padding.PREFIX: 0.05, Padding.NOP: 0.45}
"""Per cent of all executed instructions that the padding may add."""


@dataclass(frozen=True, slots=True)
class PaddingCost:
    """One way of padding, over all runs."""

    padding: Padding
    exact_per_cent: RunResults
    """Executions in the original times added instructions, of all instructions."""
    exact_of_kernel_per_cent: RunResults
    """The same of the instructions that the kernel itself executes: the rest is user space."""
    met_per_cent: RunResults
    """Nops and runtime that the rewritten kernel in fact met, of the original's instructions."""
    difference_per_cent: RunResults
    """All instructions of the rewritten kernel's run against those of the original's."""
    first: NativeCost
    """The exact cost of the first run, by form."""


@dataclass(frozen=True, slots=True)
class KernelCost:
    """One kernel, over all runs."""

    kernel: str
    instructions: RunResults
    paddings: tuple[PaddingCost, ...]


@dataclass(frozen=True)
class _Variant:
    """A rewritten kernel, ready to run."""

    padding: Padding
    growths: tuple[CostOfPlace, ...]
    bzimage: Path
    watched: tuple[CountedRange, ...]
    added: frozenset[int]
    """Start addresses of the ranges that the original does not have."""


def measure(name: str, vmlinux: bytes, machine: CountingMachine, runs: int) -> KernelCost:
    """Run the original and each rewritten kernel `runs` times. Raises EnvironmentProblem."""
    image = ElfImage.parse(vmlinux, name)
    begin_pa, span = entry_pa(image), span_of(image)
    with tempfile.TemporaryDirectory() as scratch:
        original = bzimage_of(vmlinux, Path(scratch) / f"{name}.original")
        variants = [_variant(image, padding, Path(scratch)) for padding in Padding]
        places = {growth.va for variant in variants for growth in variant.growths}
        watched = tuple(with_gaps((CountedRange(va, va + 1) for va in places), span))
        before: list[Counts] = []
        after: list[list[Counts]] = [[] for _ in variants]
        for run in range(runs):
            before.append(machine.count(original, begin_pa, watched, run))
            for variant, counts in zip(variants, after, strict=True):
                counts.append(machine.count(variant.bzimage, begin_pa, variant.watched, run))
    costs = [_compare(v, before, counts) for v, counts in zip(variants, after, strict=True)]
    return KernelCost(name, RunResults.of(c.instructions for c in before), tuple(costs))


def _variant(image: ElfImage, padding: Padding, scratch: Path) -> _Variant:
    result = rewrite(image, RewriteOptions(padding))
    bzimage = bzimage_of(result.data, scratch / f"{image.name}.{padding.value}")
    added = added_ranges(result)
    span = span_of(ElfImage.parse(result.data, image.name))
    return _Variant(
        padding,
        growths(result),
        bzimage,
        tuple(with_gaps(added, span)),
        frozenset(entry.start_va for entry in added),
    )


def added_ranges(result: RewrittenImage) -> list[CountedRange]:
    """Where the new image holds instructions that the original does not have."""
    added = list(fillers(result))
    space = room(result)
    return [*added, space] if space.start_va < space.end_va else added


def bzimage_of(vmlinux: bytes, path: Path) -> Path:
    """A bzImage with boot code of our own, written to `path`; returns it."""
    image = ElfImage.parse(vmlinux, path.name)
    path.write_bytes(wrap(image, relocation_list(image, Relocations.of(image))))
    return path


def _compare(variant: _Variant, before: list[Counts], after: list[Counts]) -> PaddingCost:
    exact = [native_cost(variant.growths, c.at(), c.instructions) for c in before]
    pairs = list(zip(before, after, strict=True))
    return PaddingCost(
        variant.padding,
        RunResults.of(cost.per_cent for cost in exact),
        RunResults.of(
            100 * cost.added / c.watched_instructions for cost, c in zip(exact, before, strict=True)
        ),
        RunResults.of(100 * executed(b, variant.added) / a.instructions for a, b in pairs),
        RunResults.of(100 * (b.instructions / a.instructions - 1) for a, b in pairs),
        exact[0],
    )


def executed(counts: Counts, starts: Iterable[int]) -> int:
    """Instructions executed in the ranges that begin at `starts`."""
    at = counts.at()
    return sum(at[va] for va in starts)

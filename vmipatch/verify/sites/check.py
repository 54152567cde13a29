# SPDX-License-Identifier: MIT
"""Do all translations of a kernel keep the contract of their instructions?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from vmipatch.emu.paravirt import Watch
from vmipatch.image.elf import ElfImage
from vmipatch.verify.sites.outcome import Difference, differences
from vmipatch.verify.sites.shapes import Shape, Shapes, shapes_of
from vmipatch.verify.sites.stand import Stand
from vmipatch.verify.sites.states import random_state


@dataclass(frozen=True, slots=True)
class SiteFinding:
    """A state in which a site does something else than its instruction."""

    shape: str
    va: int
    seed: str
    differences: tuple[Difference, ...]

    def __str__(self) -> str:
        lines = [f"{self.shape} at {self.va:#x}, seed {self.seed!r}:"]
        return "\n  ".join([*lines, *map(str, self.differences)])


@dataclass(frozen=True, slots=True)
class SitesReport:
    """What was executed, and what differed."""

    shapes: tuple[Shape, ...]
    states: int
    """Executions of each shape, on either side."""
    findings: tuple[SiteFinding, ...]
    faults: int
    """Executions that ended in a fault of the instruction."""
    left_out: dict[str, int] = field(hash=False)
    """Instructions that stay native and were not executed, by kind."""

    @property
    def sites(self) -> int:
        """Sites that the shapes stand for."""
        return sum(shape.count for shape in self.shapes)


def check_sites(
    image: ElfImage,
    rom: bytes,
    *,
    states: int = 20,
    seed: str = "0",
    watch: Watch = Watch.MEASURED,
    shapes: Iterable[Shape] | None = None,
) -> SitesReport:
    """Execute each shape of site of a rewritten kernel in `states` random states.

    `seed` and the names of the shapes decide the states. Raises InputNotUnderstood if the kernel
    does not come to start_kernel on both sides, MalformedTable for broken annotations.
    """
    every = shapes_of(image) if shapes is None else Shapes(tuple(shapes), {})
    native, paravirt = Stand(image, None), Stand(image, rom, watch)
    findings: list[SiteFinding] = []
    faults = 0
    for shape in every.shapes:
        found, faulted = _check_shape(shape, native, paravirt, states, seed)
        findings += found
        faults += faulted
    return SitesReport(every.shapes, states, tuple(findings), faults, every.left_out)


def _check_shape(
    shape: Shape, native: Stand, paravirt: Stand, states: int, seed: str
) -> tuple[list[SiteFinding], int]:
    """What differed, and how many executions ended in a fault."""
    site = shape.site
    findings, faults = [], 0
    native.aim(site)
    paravirt.aim(site)
    for index in range(states):
        name = f"{seed}/{index}"
        state = random_state(site, native.ground, f"{shape.name}/{name}")
        runs = native.execute(site, state), paravirt.execute(site, state)
        found = differences(site, *runs, paravirt.is_added)
        if found:
            findings.append(SiteFinding(shape.name, site.va, name, found))
        event = runs[0].event
        faults += event is not None and event.user_stack is None
    strays = native.stray_writes(), paravirt.stray_writes()
    if any(strays):
        difference = Difference("stray writes", *strays)
        findings.append(SiteFinding(shape.name, site.va, seed, (difference,)))
    return findings, faults

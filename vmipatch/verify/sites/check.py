# SPDX-License-Identifier: MIT
"""Do all translations of a kernel keep the contract of their instructions?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from vmipatch.choices import Mode
from vmipatch.image.elf import ElfImage
from vmipatch.verify.sites.outcome import Difference, differences
from vmipatch.verify.sites.shapes import Shapes, SiteShape, shapes_of
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
    """The sites that were executed, and the differences."""

    shapes: tuple[SiteShape, ...]
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
    mode: Mode = Mode.PARAVIRT,
    shapes: Iterable[SiteShape] | None = None,
    tell: Callable[[str], None] | None = None,
) -> SitesReport:
    """Execute each shape of site of a rewritten kernel in `states` random states.

    `seed` and the names of the shapes decide the states. Raises InputNotUnderstood if the kernel
    does not come to start_kernel on both sides, MalformedTable for broken annotations. `tell` is
    told how far it is, shape by shape.
    """
    every = shapes_of(image) if shapes is None else Shapes(tuple(shapes), {})
    native, paravirt = Stand(image, Mode.NATIVE), Stand(image, mode, rom)
    findings: list[SiteFinding] = []
    faults = 0
    for number, shape in enumerate(every.shapes):
        if tell is not None:
            tell(f"{number} of {len(every.shapes)} shapes")
        found, faulted = _check_shape(shape, native, paravirt, states, seed)
        findings += found
        faults += faulted
    return SitesReport(every.shapes, states, tuple(findings), faults, every.left_out)


def _check_shape(
    shape: SiteShape, native: Stand, paravirt: Stand, states: int, seed: str
) -> tuple[list[SiteFinding], int]:
    """The differences, and how many executions ended in a fault."""
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

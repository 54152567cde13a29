# SPDX-License-Identifier: MIT
"""What is a verdict made of? Phases with their findings, and the evidence that is judged."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from vmipatch.emu.hypervisor.exits import SENSITIVE
from vmipatch.errors import escaped
from vmipatch.verify.boots import BootResult, Phase
from vmipatch.verify.coverage import Coverage, Sites
from vmipatch.verify.lockstep.check import Lockstep
from vmipatch.verify.static import StaticVerdict
from vmipatch.verify.translations import Translations
from vmipatch.verify.variation import Variation
from vmipatch.verify.xen.machine import XenBoot


class Outcome(enum.Enum):
    """The outcome of one question."""

    HOLDS = "holds"
    FAILS = "does not hold"
    NOT_DONE = "not done"


class Statement(enum.Enum):
    """The verdict as a whole."""

    PROVEN_AND_BOOTED = "holds: proven from its bytes, and booted"
    PROVEN = "holds: proven from its bytes, not booted"
    BOOTED = "holds as far as it was booted; not proven, since no original was given"
    EXECUTED = "holds: each shape of site does what its instruction did; not proven, not booted"
    BELOW = "holds, but fewer sites were executed than required"
    FAILS = "does not hold"


class Aspect(enum.Enum):
    """The subject of a finding."""

    STATIC = "static"
    TRANSLATION = "translation"
    ENDING = "end of the run"
    WORKLOAD = "workload"
    CONSOLE = "console"
    COMPLAINT = "complaint"
    USER_SPACE = "system calls"
    SWITCH = "switch"
    AUDIT = "audit"
    DIVERGENCE = "divergence"
    HYPERCALL = "hypercalls"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that does not hold."""

    phase: Phase
    aspect: Aspect
    place: str
    """Function and address, where there is one."""
    message: str

    def __str__(self) -> str:
        where = f" {self.place}:" if self.place else ""
        return escaped(f"{self.phase.value}: {self.aspect.value}:{where} {self.message}")


@dataclass(frozen=True, slots=True)
class PhaseVerdict:
    """The result of one phase."""

    phase: Phase
    outcome: Outcome
    what: str
    """One line about it."""
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that was looked at."""

    kernel: str
    original: str | None
    sites: Sites
    static: StaticVerdict | None
    boots: dict[Phase, BootResult] = field(hash=False)
    coverage: Coverage | None
    required_percent: float | None
    own_workload: bool
    translations: Translations | None = None
    lockstep: Lockstep | None = None
    on_xen: XenBoot | None = None
    is_packed: bool = False
    """Whether the kernel came in a bzImage."""
    cpus: int = 1
    """Processors of the machines that booted it."""
    raced: tuple[BootResult, ...] = ()
    """Boots of the rewritten kernel, its processors in turns of other lengths."""
    seconds: Mapping[Phase, float] = field(default_factory=dict, hash=False)
    """How long what is not a boot took on this host."""
    varied: tuple[BootResult, ...] = ()
    """Boots of the original with a timer that ticks at other moments."""
    variation: Variation | None = None
    """The differences between them; None without any."""

    @property
    def used_several(self) -> bool:
        """Whether a boot executed code on more than one processor."""
        return any(boot.processors > 1 for boot in (*self.boots.values(), *self.raced))


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement, and what it stands on."""

    statement: Statement
    phases: tuple[PhaseVerdict, ...] = field(repr=False)
    evidence: Evidence = field(repr=False)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All of them, in the order of the phases."""
        return tuple(finding for phase in self.phases for finding in phase.findings)

    @property
    def holds(self) -> bool:
        """Whether nothing speaks against the kernel."""
        return self.statement is not Statement.FAILS


def sensitive_exits(boot: BootResult) -> int:
    """How often a guest was left because of a sensitive instruction of its kernel."""
    return sum(boot.exits.get(str(kind), 0) for kind in SENSITIVE)

# SPDX-License-Identifier: MIT
"""Do the original, the rewritten kernel and the rewritten one on a ROM do the same, event by event?

The three machines and what they boot; what they came to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from vmipatch.choices import Mode
from vmipatch.image.elf import ElfImage
from vmipatch.verify.lockstep.compare import Comparer, Divergence
from vmipatch.verify.lockstep.events import EventKind
from vmipatch.verify.lockstep.report import headline, history
from vmipatch.verify.lockstep.streams import run_side_by_side
from vmipatch.verify.lockstep.world import NAMES, WorldEnd, WorldOrder
from vmipatch.verify.user_space import Detail


@dataclass(frozen=True, slots=True)
class LockstepOrder:
    """Kernels to boot in three machines, and how."""

    original: bytes = field(repr=False)
    original_name: str
    kernel: bytes = field(repr=False)
    kernel_name: str
    initrd: bytes = field(repr=False)
    command_line: str
    limit_ns: int
    detail: Detail
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Lockstep:
    """The outcome of the machines; the same on every run and every host."""

    compared: dict[EventKind, int] = field(hash=False)
    """How many events all three agreed on."""
    divergence: Divergence | None
    ends: tuple[WorldEnd | None, ...]
    """None of a machine that was stopped at the divergence."""
    headline: str = ""
    """The divergence in one line."""
    history: tuple[str, ...] = ()
    """Lines with what each machine said up to there."""

    @property
    def holds(self) -> bool:
        """Whether all three came to the same end, as their kernels meant it, and none differed."""
        ended = all(end is not None and end.ended_by_guest for end in self.ends)
        return self.divergence is None and ended and self.became_paravirtual

    @property
    def became_paravirtual(self) -> bool:
        """Whether the last of the machines found its ROM."""
        last = self.ends[-1]
        return last is not None and last.became_paravirtual

    @property
    def flags_checked(self) -> int:
        """How often the virtual interrupt flag was compared with its model."""
        last = self.ends[-1]
        return 0 if last is None else last.flags_checked


def check_lockstep(
    order: LockstepOrder, heard: Callable[[int, int], None] = lambda machine, now_ns: None
) -> Lockstep:
    """Run them to the end or to the first divergence; `heard` gets machine and virtual time.

    Raises InputNotUnderstood if a kernel does not fit the machine, or was not rewritten.
    """
    files = (
        (Mode.NATIVE, order.original, order.original_name),
        (Mode.NATIVE, order.kernel, order.kernel_name),
        (Mode.PARAVIRT, order.kernel, order.kernel_name),
    )
    worlds = [
        WorldOrder(name, mode, kernel, file, order.initrd, order.command_line, order.limit_ns,
                   order.detail, order.timeout_s)
        for name, (mode, kernel, file) in zip(NAMES, files, strict=True)
    ]  # fmt: skip
    comparer = Comparer(len(worlds))
    ends = run_side_by_side(worlds, comparer, heard)
    compared = {kind: comparer.compared[kind] for kind in EventKind if comparer.compared[kind]}
    found = comparer.divergence
    if found is None:
        return Lockstep(compared, None, tuple(ends))
    was, now = (ElfImage.parse(world.kernel, world.file).symbols for world in worlds[:2])
    lines = history(found, (was, now, now))
    return Lockstep(compared, found, tuple(ends), headline(found), tuple(lines))

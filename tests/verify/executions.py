# SPDX-License-Identifier: MIT
"""How often was each site executed as a call, how often as the instruction, and why so?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from vmipatch.emu.processor.cpu import Cpu
from vmipatch.emu.processor.paging import Mmu
from vmipatch.image.elf import ElfImage
from vmipatch.verify.coverage import AnnotatedSite, NativeSite, Sites

UNPATCHED = "the runtime left the instruction: no call {} in this ROM"


@dataclass(frozen=True, slots=True)
class SiteExecutions:
    """All executions of one site while the kernel was paravirtual."""

    va: int
    kind: str
    """The class of its instruction, as `vmipatch scan` names it."""
    function: str
    reason: str
    """Why the instruction itself was executed; empty for a call."""
    count: int


@dataclass(frozen=True, slots=True)
class Executions:
    """The sites that a boot executed, in address order."""

    sites: tuple[SiteExecutions, ...]

    @property
    def total(self) -> int:
        """Executions of all sites."""
        return sum(site.count for site in self.sites)

    @property
    def native(self) -> int:
        """Executions of a sensitive instruction itself."""
        return sum(self.by_reason().values())

    @property
    def native_percent(self) -> float:
        """Native executions of a hundred; of none there are none."""
        return 100 * self.native / self.total if self.sites else 0.0

    def by_reason(self) -> Counter[str]:
        """Native executions by why there was no call."""
        counts: Counter[str] = Counter()
        for site in self.sites:
            if site.reason:
                counts[site.reason] += site.count
        return counts


class ExecutionCounter:
    """Counts each execution of each site of a rewritten kernel, once the kernel is paravirtual.

    Whether an annotated site is a call is read from the guest's memory when it is first executed:
    what the records promise, and which calls a ROM serves, is not believed. A call into Python for
    each execution makes a run about twice as long; SiteRecorder does if only coverage is asked for.
    """

    def __init__(self, cpu: Cpu, mmu: Mmu, output: ElfImage, counts: Callable[[], bool]) -> None:
        """Watch from now on; `counts` says whether the kernel is paravirtual.

        Raises InputNotUnderstood if `output` is not a rewritten kernel, MalformedTable.
        """
        self._mmu = mmu
        self._output = output
        self._counts = counts
        self._executed: Counter[int] = Counter()
        self._reasons: dict[int, str] = {}
        sites = Sites.of(output)
        every: tuple[AnnotatedSite | NativeSite, ...] = (*sites.annotated, *sites.native)
        self._sites = {site.va: site for site in every}
        for va in self._sites:
            cpu.watch(va, self._counter(va))

    def executions(self) -> Executions:
        """The counts up to now."""
        return Executions(
            tuple(
                SiteExecutions(va, site.kind, site.function, self._reasons[va], count)
                for va, count in sorted(self._executed.items())
                for site in (self._sites[va],)
            )
        )

    def _counter(self, va: int) -> Callable[[], None]:
        def count() -> None:
            if self._counts():
                if va not in self._executed:
                    self._reasons[va] = self._reason(self._sites[va])
                self._executed[va] += 1

        return count

    def _reason(self, site: AnnotatedSite | NativeSite) -> str:
        if isinstance(site, NativeSite):
            return site.reason
        now = self._mmu.peek(site.va, site.code_len)
        is_patched = now != self._output.read(site.va, site.code_len)
        return "" if is_patched else UNPATCHED.format(site.call.name)

# SPDX-License-Identifier: MIT
"""Is a site counted if, and only if, it was executed while its call could count?"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.rewrite.smallkernel import Short, SmallKernel
from tests.verify.pair import small_pair
from vmipatch.errors import InputNotUnderstood
from vmipatch.image.elf import ElfImage
from vmipatch.rewrite import rewrite
from vmipatch.verify.coverage import SiteRecorder, Sites, coverage_of, kind_of

KERNEL_RING, USER_RING = 1, 3


class FakeCpu:
    """Watches as a Cpu does; `execute` is the guest."""

    def __init__(self) -> None:
        self.registers = SimpleNamespace(cpl=KERNEL_RING, cr0=1 << 31)  # PG
        self.watched: dict[int, Callable[[], None]] = {}

    def watch(self, va: int, call: Callable[[], None]) -> Callable[[], None]:
        self.watched[va] = call
        return lambda: cast(None, self.watched.pop(va))

    def execute(self, va: int) -> None:
        if va in self.watched:
            self.watched[va]()


class FakeMmu:
    def __init__(self, unmapped: int = -1) -> None:
        self.unmapped = unmapped

    def find(self, va: int) -> int | None:
        return None if va == self.unmapped else va


def recorder(cpu: FakeCpu, mmu: FakeMmu, counts: Callable[[], bool]) -> SiteRecorder:
    return SiteRecorder(cast(Any, cpu), cast(Any, mmu), [1, 2, 3], counts)


def test_site_is_watched_until_it_was_seen() -> None:
    cpu = FakeCpu()
    sites = recorder(cpu, FakeMmu(), lambda: True)
    cpu.execute(2)
    cpu.execute(2)
    sites.forget()
    assert sites.executed == {2}
    assert set(cpu.watched) == {1, 3}


def test_execution_before_the_switch_does_not_count() -> None:
    cpu = FakeCpu()
    switched = False
    sites = recorder(cpu, FakeMmu(), lambda: switched)
    cpu.execute(1)
    sites.forget()
    assert not sites.executed and set(cpu.watched) == {1, 2, 3}
    switched = True
    cpu.execute(1)
    assert sites.executed == {1}


def test_watch_never_ends_while_a_process_runs_or_where_nothing_is_mapped() -> None:
    cpu = FakeCpu()
    sites = recorder(cpu, FakeMmu(unmapped=3), lambda: True)
    cpu.execute(1)
    cpu.execute(3)
    cpu.registers.cpl = USER_RING
    sites.forget()
    assert set(cpu.watched) == {1, 2, 3}
    cpu.registers.cpl = KERNEL_RING
    sites.forget()
    assert set(cpu.watched) == {2, 3}


def test_shares_add_up_to_the_whole() -> None:
    sites = Sites.of(small_pair()[1])
    executed = frozenset(site.va for site in sites.annotated[:3]) | {0x1234}
    coverage = coverage_of(sites, executed)
    assert (coverage.whole.executed, coverage.whole.sites) == (3, len(sites.annotated))
    for group in (coverage.classes, coverage.functions):
        assert sum(share.executed for share in group) == 3
        assert sum(share.sites for share in group) == len(sites.annotated)
    assert coverage.percent == pytest.approx(300 / len(sites.annotated))


def test_sites_are_named_by_class_and_function() -> None:
    sites = Sites.of(small_pair()[1])
    found = {(site.kind, site.function) for site in sites.annotated}
    assert {("rdtsc", "reads_clock"), ("sti+hlt", "start_kernel"), ("pushf", "runs_on")} <= found
    assert all(site.reason for site in sites.native)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("3e3e3e3efa", "cli"),
        ("9c588d7600", "pushf"),
        ("3e3e3efbf4", "sti+hlt"),
        ("9090", "unknown"),
    ],
)
def test_class_is_seen_through_padding(code: str, kind: str) -> None:
    assert kind_of(bytes.fromhex(code)) == kind


def test_kernel_that_was_not_rewritten_is_refused() -> None:
    with pytest.raises(InputNotUnderstood, match="not been rewritten"):
        Sites.of(small_pair()[0])


def test_fused_site_that_stays_native_names_each_of_its_instructions() -> None:
    """A loop over it cannot grow, so `sti; hlt` keeps its bytes; both instructions trap."""
    kernel = SmallKernel()
    kernel.text.function("f", "fb f4", b"\x40" * 123, Short("e2", "f"), "c3")
    output = ElfImage.parse(rewrite(kernel.image()).data, "rewritten")
    (site,) = (site for site in Sites.of(output).native if site.kind == "sti+hlt")
    assert output.read(site.va, 2) == b"\xfb\xf4"
    assert site.others == (site.va + 1,)

# SPDX-License-Identifier: MIT
"""Does every execution of a patched site call the ROM once, and does a ROM change what is executed?

Three comparisons, from exact to approximate:

1. The rewritten kernel against the ROM it runs on. A counting plugin of QEMU sees each near call
   that sites and thunks make; the trace ROM writes each call's number to a port. Per number both
   are equal, over a whole boot and workload.
2. The rewritten kernel against the original, from start_kernel to where interrupts are first turned
   on. Each site is executed equally often, and so the ROM's count of a call is the number of
   executions of its sites in the original. Exempt are loops that poll a clock until it has reached
   some value: calls make their round longer, so there are fewer rounds. They are known by what they
   consist of, RDTSC and IN; every other site is exact.
3. The same over a whole boot and workload. Time counts instructions, and thunks and ROM add some,
   so timer interrupts come at other places. With the polling loops of 2 left out, each class of
   sites stays within TOLERANCE. Measured: 1.1 % for IN and OUT, since the runtime's line goes out
   at the serial port, too, and 0.2 % for all others. (Where processes get random addresses, these
   depend on time as well, and page faults, so reads of CR2, differed by 3 %.)

The example guest executes every class and waits for the timer in one place only: all its sites are
exact but the few on the way of the system call with which its program waits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import pytest

from benchmarks.counting import build_plugin
from examples.guest import build as build_guest
from tests.boot.conftest import COMPARABLE, Machine, Variant
from tests.conftest import KernelFinder
from tests.support.console import GuestConsole, compare
from tests.support.counted import Counted, count
from tests.support.qemu import QemuBoot, boot
from tests.support.roms import Patching, rom_arguments
from vmipatch.choices import Flavor
from vmipatch.image.elf import ElfImage
from vmipatch.image.wrap import wrap
from vmipatch.rewrite import RewrittenImage, rewrite
from vmipatch.rom import build_rom
from vmipatch.scan.site import Site
from vmipatch.vmi.calls import VmiCall

pytestmark = pytest.mark.qemu

TOLERANCE = 0.02
"""Of a class's executions; fewer than 50 are exact by it."""
POLLING = frozenset({"rdtsc", "in"})
POLLED = frozenset({VmiCall.RDTSC, VmiCall.INB})
REPEATED = frozenset({"ins", "outs"})
"""Counted anew for each iteration where they stand natively, as one call on a ROM."""
IDLE = frozenset({"mov from dr", "hlt", "wbinvd", "ins", "outs", "str"})
"""Kinds that no workload here executes: of debuggers, of panics, of sleep, of disks by PIO."""
OPTIONS = f"{COMPARABLE} norandmaps"
BEGIN = "start_kernel"
INTERRUPTS_ON = "time_init"
"""The last function that start_kernel calls before it turns interrupts on."""


@dataclass(frozen=True)
class Pair:
    """An original and what became of it, on a trace ROM."""

    original: ElfImage
    result: RewrittenImage

    @cached_property
    def patching(self) -> Patching:
        """The rewritten kernel on its ROM."""
        return Patching(ElfImage.parse(self.result.data, "rewritten"), build_rom(Flavor.TRACE))

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """The sites of the original that become calls."""
        patched = {record.native_va for record in self.patching.patched}
        return tuple(s for s, _ in self.result.sites if self.new_va(s.va) in patched)

    def new_va(self, va: int) -> int:
        """Where an address of the original is in the rewritten kernel."""
        return self.result.placement.map.one(va)

    def executions(self, before: Counted, after: Counted) -> Iterator[tuple[Site, int, int]]:
        """Each site, how often the original executes it, and the rewritten kernel."""
        for site in self.sites:
            yield site, before.at[site.va], after.at[self.new_va(site.va)]


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_plugin(tmp_path_factory.mktemp("plugin"))


@pytest.fixture(scope="module")
def pair(kernel: KernelFinder, rewritten: KernelFinder) -> Pair:
    image = ElfImage.parse(kernel("tiny").read_bytes(), "tiny")
    result = rewrite(image)
    assert result.data == rewritten("tiny").read_bytes(), "the one that is booted"
    return Pair(image, result)


CountRun = Callable[..., Counted]
"""run(variant, stop_va=None): a boot of the kernel, counted."""


@pytest.fixture(scope="module")
def run(
    pc: Machine, pair: Pair, plugin: Path, tmp_path_factory: pytest.TempPathFactory
) -> CountRun:
    rom = rom_arguments(pair.patching.rom.data, tmp_path_factory.mktemp("rom"))

    @cache
    def counted(variant: Variant, stop_va: int | None = None) -> Counted:
        def start(more: tuple[str, ...]) -> QemuBoot:
            return pc(variant, "tiny", OPTIONS, machine=(*own_rom, *more))

        if variant is Variant.ORIGINAL:
            own_rom: tuple[str, ...] = ()
            return count(start, plugin, pair.original, [s.va for s in pair.sites], stop_va)
        own_rom = rom
        vas = {pair.new_va(s.va) for s in pair.sites} | {va for va, _ in pair.patching.calls}
        return count(start, plugin, pair.patching.image, vas, stop_va)

    return counted


@pytest.mark.kernels
def test_rom_is_called_as_often_as_sites_and_thunks_call_it(pair: Pair, run: CountRun) -> None:
    native = run(Variant.REWRITTEN, pair.patching.image.symbols.address("__vmi_start"))
    assert not native.calls, "nothing calls the ROM before the runtime has run"
    whole = run(Variant.REWRITTEN)
    assert GuestConsole.parse(whole.boot.console).done
    assert calls_made(pair.patching, whole.since(native)) == whole.calls
    assert len(whole.calls) > 15
    assert whole.calls.total() > 100_000


def calls_made(patching: Patching, counted: Counted) -> Counter[VmiCall]:
    """How often each call was made, by the executions of the near calls."""
    made: Counter[VmiCall] = Counter()
    for va, call in patching.calls:
        made[call] += counted.at[va]
    return +made


@pytest.fixture(scope="module")
def early(pair: Pair, run: CountRun) -> tuple[Counted, Counted]:
    """Original and rewritten kernel from start_kernel on until interrupts come on."""

    def segment(variant: Variant, place: Callable[[int], int]) -> Counted:
        begin_va, end_va = map(pair.original.symbols.address, (BEGIN, INTERRUPTS_ON))
        assert begin_va is not None and end_va is not None
        return run(variant, place(end_va)).since(run(variant, place(begin_va)))

    return segment(Variant.ORIGINAL, int), segment(Variant.REWRITTEN, pair.new_va)


def polling_sites(pair: Pair, early: tuple[Counted, Counted]) -> set[int]:
    """Sites in loops that wait for a clock, as the first part of the boot shows them."""
    return {site.va for site, before, after in pair.executions(*early) if before != after}


@pytest.mark.kernels
def test_rom_counts_the_executions_of_the_original_until_interrupts_come(
    pair: Pair, early: tuple[Counted, Counted]
) -> None:
    original, on_rom = early
    polling = polling_sites(pair, early)
    assert {site.kind for site in pair.sites if site.va in polling} <= POLLING
    assert sum(1 for _, before, _ in pair.executions(*early) if before) > 10 * len(polling) > 0

    expected: Counter[VmiCall] = Counter()
    for site, before, _ in pair.executions(*early):
        if site.call is not None and site.call not in POLLED:
            expected[site.call] += before
    assert +expected == Counter({c: n for c, n in on_rom.calls.items() if c not in POLLED})
    assert expected.total() > 1000
    assert not original.calls


@pytest.mark.kernels
def test_whole_run_executes_each_class_of_sites_about_as_often(
    pair: Pair, run: CountRun, early: tuple[Counted, Counted]
) -> None:
    original, on_rom = run(Variant.ORIGINAL), run(Variant.REWRITTEN)
    assert compare(original.boot.console, on_rom.boot.console) == []
    polling = polling_sites(pair, early)
    before, after = (Counter[str]() for _ in range(2))
    for site, here, there in pair.executions(original, on_rom):
        if site.va not in polling:
            before[site.kind] += here
            after[site.kind] += there
    assert {kind for kind, count in before.items() if not count} <= IDLE
    differing = {
        kind: (before[kind], after[kind])
        for kind in before
        if abs(after[kind] - before[kind]) > TOLERANCE * before[kind]
    }
    assert differing == {}


def test_guest_executes_each_site_as_often_on_a_rom(plugin: Path, tmp_path: Path) -> None:
    """Waiting for the timer takes one system call less or more, and the paravirt call stays a call.

    Elsewhere a copy of `cli` takes its place, which is not a site.
    """
    image = ElfImage.parse(build_guest(), "guest")
    pair = Pair(image, rewrite(image))
    nothing = tmp_path / "initrd"
    nothing.write_bytes(bytes(4))
    rom = rom_arguments(pair.patching.rom.data, tmp_path)

    def run(image: ElfImage, vas: set[int], machine: tuple[str, ...] = ()) -> Counted:
        kernel = tmp_path / image.name
        kernel.write_bytes(wrap(image, None))
        return count(lambda more: boot(kernel, nothing, extra=machine + more), plugin, image, vas)

    original = run(image, {site.va for site in pair.sites})
    on_rom = run(pair.patching.image, {pair.new_va(site.va) for site in pair.sites}, rom)
    assert original.boot.console.endswith("GUEST done\n")
    executed, waiting = 0, []
    for site, before, after in pair.executions(original, on_rom):
        executed += before > 0
        if site.va == image.symbols.address("native_irq_disable"):
            assert (before, after) == (0, 1)
        elif site.kind in REPEATED:
            assert (before > 0) == (after > 0)
        elif before != after:
            waiting.append((site.kind, abs(before - after)))
    assert executed > 250
    assert sorted(waiting) in ([], [("cli", 1), ("sti", 1)])

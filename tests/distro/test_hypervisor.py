# SPDX-License-Identifier: MIT
"""Do Debian's kernels run in the hypervisor to the end of a workload, as its promises say?"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conftest import InitramfsBuilder, KernelFinder
from tests.distro.conftest import NO_SELF_TESTS, DistroFinder
from tests.emu.hypervised_boot import ONE_PROCESSOR, HypervisedBoot, boot
from tests.emu.hypervisor.exit_gain import AT_MOST_LEFT, SPARED, Gain
from tests.support import segments
from tests.support.console import GuestConsole, complaints
from vmipatch.choices import Flavor, Mode
from vmipatch.emu.hypervisor.exits import ExitKind
from vmipatch.emu.report import Ending
from vmipatch.image.elf import ElfImage
from vmipatch.rom.entries import RelocationType, relocation_type
from vmipatch.verify.coverage import Sites
from vmipatch.vmi.calls import VmiCall

pytestmark = pytest.mark.distro

WORKLOAD = "workload.sh"
NOTHING_RANDOM = "norandmaps"
ONCE_IN_A_BOOT = 10
"""Of a kind that is kept: what the runtime adds."""

Booter = Callable[..., HypervisedBoot]


@pytest.fixture
def run(
    distro: DistroFinder, distro_rewritten: KernelFinder, initramfs: InitramfsBuilder, name: str
) -> Booter:
    """A booter of the kernel under test, original or rewritten: once for the same arguments."""

    def start(
        mode: Mode,
        rewritten: bool = True,
        append: str = "",
        again: int = 0,
        script: str = WORKLOAD,
        extra: tuple[tuple[str, bytes], ...] = (),
    ) -> HypervisedBoot:
        vmlinux = distro_rewritten(name) if rewritten else distro(name).vmlinux
        options = f"{ONE_PROCESSOR} {NOTHING_RANDOM} {NO_SELF_TESTS} {append}"
        # Twice the kernel looks at every 16 bytes of the BIOS area: the same memory for both.
        archive, trapped = str(initramfs(script, extra)), mode is Mode.TRAP
        return boot(mode, str(vmlinux), archive, options, again, rom_unused=trapped)

    return start


def test_every_mode_reaches_the_end_of_the_workload_and_prints_the_same(run: Booter) -> None:
    trapped, paravirtual = run(Mode.TRAP, rewritten=False), run(Mode.PARAVIRT)
    trapped.check()
    paravirtual.check()
    native = run(Mode.NATIVE, rewritten=False)
    assert native.result.ending is Ending.RESET_BY_FAULT, f"{native.result}"
    assert not complaints(native.console)
    assert "vmi: paravirtual" in paravirtual.console
    printed = [GuestConsole.parse(done.console).test for done in (native, trapped, paravirtual)]
    assert printed[0] == printed[1] == printed[2]


def test_two_runs_leave_the_same_memory(run: Booter) -> None:
    assert run(Mode.PARAVIRT) == run(Mode.PARAVIRT, again=1)


def test_nothing_is_emulated_that_the_ledger_does_not_list(
    run: Booter, distro_rewritten: KernelFinder, name: str
) -> None:
    """Listed: left native because it traps, or annotated with a call that no ROM serves."""
    done = run(Mode.AUDIT)
    done.check()
    assert done.result.statistics.traps[ExitKind.ROM] > 100_000, "the audit looked"
    sites = Sites.of(ElfImage.parse(distro_rewritten(name).read_bytes(), name))
    listed = {site.va for site in sites.native if site.trapping}
    listed |= {site.va for site in sites.annotated if _no_rom_serves(site.call)}
    assert not [finding for finding in done.findings if finding.va not in listed]
    assert not [finding for finding in done.findings if finding.is_unprivileged]


def _no_rom_serves(call: VmiCall) -> bool:
    return relocation_type(call, Flavor.PARAVIRT) is RelocationType.NONE


def test_exits_kind_by_kind(run: Booter) -> None:
    """Of 686, trapped and paravirtual: cli 481,674 and 0, iret 85,931 and 14 (what is left found an
    interrupt waiting); page faults 14,134 and 14,135, port writes 159,316 and 161,072. The rest of
    the difference is the timer: 20,737 ticks and 20,987.
    """
    trapped, paravirtual = run(Mode.TRAP, rewritten=False).result, run(Mode.PARAVIRT).result
    gain = Gain(trapped, paravirtual)
    assert not gain.left()
    assert not gain.off(ONCE_IN_A_BOOT, {})
    before, after = gain.counts((ExitKind.STI,))
    assert after <= AT_MOST_LEFT * before
    assert gain.counts(SPARED["cli"])[0] > 100_000, "trap mode saw them"


def test_processes_keep_their_segments(run: Booter) -> None:
    """Of thread-local ones, of their own table, and a stack of 16 bits (espfix); no vm86."""
    programs = tuple((f"returns/{name}", data) for name, data in segments.PROGRAMS.items())
    done = run(Mode.PARAVIRT, script="returns.sh", extra=programs)
    done.check()
    ends = dict(
        line.rsplit(": ", 1) for line in GuestConsole.parse(done.console).test if ": " in line
    )
    assert ends == {f"/returns/{name}": str(segments.KEPT) for name in segments.PROGRAMS}
    assert done.result.statistics.traps[ExitKind.STACK_SEGMENT] > 20, "the detour was taken"


@pytest.mark.parametrize("name", ["debian-686-pae"])  # 686 has no such isolation
def test_page_table_isolation_is_refused_in_words(run: Booter) -> None:
    done = run(Mode.PARAVIRT, append="pti=on", script="short.sh")
    assert done.result.ending is Ending.UNSUPPORTED
    assert "pti=off" in done.result.details

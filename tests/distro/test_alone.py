# SPDX-License-Identifier: MIT
"""Of a vmlinuz alone, without its debug twin: how much is rewritten, and does it run?

A smaller part, of the kernel tiny, runs by default: tests/recover/test_kernels.py.
"""

from __future__ import annotations

import sys
from collections import Counter

import pytest

from tests.boot.conftest import COMPARABLE, check_finished
from tests.conftest import InitramfsBuilder
from tests.distro.conftest import NO_SELF_TESTS, DistroFinder, RewrittenFrom, ShippedFinder
from tests.emu.hypervised_boot import ONE_PROCESSOR, boot
from tests.support import qemu
from tests.support.console import compare, new_warnings
from tests.support.roms import rom_arguments
from vmipatch.choices import Flavor, Mode
from vmipatch.rom import build_rom
from vmipatch.scan.site import Disposition, Reason, Site

pytestmark = pytest.mark.distro

LEAST_SHARE = 0.95
"""Of the sites that become calls where the debug twin tells all. Measured: 96.3 % of 686."""
OPTIONS = f"{COMPARABLE} {NO_SELF_TESTS}"
OWN_REASONS = {Reason.FIXED, Reason.NO_ROOM}
"""Why a site may stay native that becomes a call with the debug twin."""


def is_rewritten(site: Site) -> bool:
    return site.disposition is Disposition.REWRITTEN


def test_nearly_every_site_is_rewritten_and_the_rest_has_a_reason(
    shipped: ShippedFinder, name: str
) -> None:
    twin, alone = shipped(name).sites, shipped(name, RewrittenFrom.ALONE).sites
    assert twin.keys() == alone.keys()
    possible = {va for va, site in twin.items() if is_rewritten(site)}
    done = {va for va, site in alone.items() if is_rewritten(site)}
    sensitive = [s for s in alone.values() if s.disposition is not Disposition.HARMLESS]
    reasons = Counter(alone[va].reason for va in possible - done)
    print(
        f"{name}: {len(done)} of {len(possible)}, of {len(sensitive)} that are not harmless, of "
        f"{len(alone)} listed; {reasons}",
        file=sys.stderr,
    )
    assert len(done & possible) >= LEAST_SHARE * len(possible)
    assert reasons.keys() <= OWN_REASONS


@pytest.mark.qemu
def test_console_is_that_of_the_original(
    distro: DistroFinder, shipped: ShippedFinder, initramfs: InitramfsBuilder, name: str
) -> None:
    archive = initramfs("workload.sh", ())
    original, rewritten = (
        qemu.boot(kernel, archive, append=OPTIONS, memory_mib=512, timeout_s=900)
        for kernel in (distro(name).vmlinuz, shipped(name, RewrittenFrom.ALONE).vmlinuz)
    )
    check_finished(rewritten)
    assert compare(original.console, rewritten.console) == []
    assert new_warnings(original.console, rewritten.console) == []


@pytest.mark.qemu
@pytest.mark.parametrize("name", ["debian-686-pae"])  # 686 has no such isolation
def test_isolated_page_tables_and_a_rom_go_together(
    shipped: ShippedFinder,
    initramfs: InitramfsBuilder,
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
) -> None:
    """Thunks and ROM are far from the entry code, in pages that user space does not see."""
    rom = rom_arguments(build_rom(Flavor.NATIVE).data, tmp_path_factory.mktemp("rom"))
    kernel, archive = shipped(name, RewrittenFrom.ALONE).vmlinuz, initramfs("short.sh", ())
    options = f"{OPTIONS} pti=on"
    done = qemu.boot(kernel, archive, append=options, memory_mib=512, extra=rom, timeout_s=900)
    check_finished(done)
    assert "vmi: paravirtual" in done.preface
    assert "isolation: enabled" in done.console


def test_it_runs_paravirtually(
    shipped: ShippedFinder, initramfs: InitramfsBuilder, name: str
) -> None:
    options = f"{ONE_PROCESSOR} norandmaps {NO_SELF_TESTS}"
    vmlinux = shipped(name, RewrittenFrom.ALONE).vmlinux
    done = boot(Mode.PARAVIRT, str(vmlinux), str(initramfs("workload.sh", ())), options)
    done.check()
    assert "vmi: paravirtual" in done.console

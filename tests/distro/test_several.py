# SPDX-License-Identifier: MIT
"""Do Debian's kernels use two processors, with their plain command line, in every mode?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import InitramfsBuilder, KernelFinder
from tests.distro.conftest import NO_SELF_TESTS, DistroFinder
from tests.emu.several_boot import PLAIN, SeveralBoot, boot
from tests.support import modules
from tests.support.console import GuestConsole
from vmipatch.choices import Flavor, Mode
from vmipatch.emu.hypervisor.exits import ExitKind
from vmipatch.image.elf import ElfImage
from vmipatch.rewrite.module import rewrite_module
from vmipatch.rom.entries import RelocationType, relocation_type
from vmipatch.verify.coverage import Sites

pytestmark = pytest.mark.distro

REWRITTEN = (Mode.PARAVIRT, Mode.AUDIT)
LOADED = (
    "crc32c_generic", "loop", "ext4", "algif_hash", "blake2b_generic", "cmac", "aes_ti", "dummy",
    "tun", "cpuid", "parport_pc", "e1000", "ne2k_pci", "pcnet32", "via_rhine", "sis900", "amd8111e",
    "i2c_piix4",
)  # fmt: skip
"""Drivers of network cards find none here, and come and go all the same."""
TEN = 10

Booter = Callable[..., SeveralBoot]


@pytest.fixture
def run(
    distro: DistroFinder, distro_rewritten: KernelFinder, initramfs: InitramfsBuilder, name: str
) -> Booter:
    """Boots the kernel under test, once for the same arguments."""

    def start(
        mode: Mode,
        script: str = "several.sh",
        append: str = PLAIN,
        extra: tuple[tuple[str, bytes], ...] = (),
        again: int = 0,
    ) -> SeveralBoot:
        vmlinux = distro_rewritten(name) if mode in REWRITTEN else distro(name).vmlinux
        return boot(mode, str(vmlinux), str(initramfs(script, extra)), append, again=again)

    return start


@pytest.mark.parametrize("mode", [Mode.NATIVE, *REWRITTEN])
def test_whole_workload_with_two(run: Booter, mode: Mode) -> None:
    done = run(mode)
    done.check()
    done.check_all_worked()
    assert done.printed == run(Mode.NATIVE).printed
    assert (mode in REWRITTEN) is ("vmi: paravirtual" in done.console)


def test_nothing_is_emulated_that_the_ledger_does_not_list(
    run: Booter, distro_rewritten: KernelFinder, name: str
) -> None:
    """On the second processor neither, once it has joined."""
    done = run(Mode.AUDIT)
    assert done.result.statistics.traps[ExitKind.ROM] > 100_000, "the audit looked"
    sites = Sites.of(ElfImage.parse(distro_rewritten(name).read_bytes(), name))
    listed = {va for site in sites.native if site.trapping for va in (site.va, *site.others)}
    native = RelocationType.NONE
    listed |= {s.va for s in sites.annotated if relocation_type(s.call, Flavor.PARAVIRT) is native}
    assert not [finding for finding in done.findings if finding.va not in listed]


@pytest.mark.parametrize("mode", [Mode.NATIVE, Mode.PARAVIRT])
def test_processor_goes_and_comes_back(run: Booter, mode: Mode) -> None:
    done = run(mode, "hotplug.sh", f"{PLAIN} {NO_SELF_TESTS}")
    done.check()
    assert done.console.count("\nprocessors 1\n") == 3
    assert done.console.count("\nprocessors 2\n") == 3


@pytest.mark.parametrize("name", ["debian-686-pae"])  # 686 has no such isolation
def test_page_table_isolation_natively(run: Booter) -> None:
    done = run(Mode.NATIVE, append=f"{PLAIN} {NO_SELF_TESTS} pti=on")
    done.check()
    done.check_all_worked()
    assert "page tables isolation: enabled" in done.console


@pytest.mark.parametrize("mode", [Mode.NATIVE, *REWRITTEN])
def test_two_runs_are_the_same_to_the_last_byte(run: Booter, mode: Mode) -> None:
    first, second = (run(mode, again=number) for number in range(2))
    assert first.memory == second.memory
    assert first.console == second.console
    assert first.result.blocks == second.result.blocks


@pytest.mark.parametrize("name", ["debian-686"])
def test_ten_rewritten_modules_load_with_two(
    run: Booter, distro: DistroFinder, name: str, tmp_path: Path
) -> None:
    tree = modules.ModuleTree.of(distro(name).modules)
    order = tree.in_order(LOADED)
    changed = {each for each in order if rewrite_module(tree.read(each), each).is_changed}
    assert len(changed) >= TEN
    files = modules.files(tree, LOADED, {}, lambda data, each: rewrite_module(data, each).data)
    extra = (*modules.materials(tmp_path), *files)
    done = run(Mode.PARAVIRT, "modules.sh", f"{PLAIN} {NO_SELF_TESTS}", extra)
    done.check()
    lines = GuestConsole.parse(done.console).test
    for each in order:
        assert f"loaded {each}" in lines, lines
        assert f"unloaded {each}" in lines, lines
    for each in changed:
        assert f"vmi: module {each}, " in done.console
    assert modules.HELLO in lines and modules.md5_of_numbers() in lines
    assert "refused" not in done.console

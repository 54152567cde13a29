# SPDX-License-Identifier: MIT
"""Is what becomes of Debian's vmlinuz still that kernel, for every way to start it?"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.boot.conftest import COMPARABLE, check_finished
from tests.conftest import InitramfsBuilder
from tests.distro.conftest import DistroFinder, VmlinuzFinder
from tests.support import firmware, qemu
from tests.support.console import Console, compare, new_warnings
from vmipatch.image.bzimage import BzImage
from vmipatch.image.repack.pe_header import certificates

pytestmark = [pytest.mark.distro, pytest.mark.qemu]

MEMORY_MIB = 512
MOST_GROWTH = 1.02


def boot(kernel: Path, initrd: Path, append: str, smp: int = 1, more_mib: int = 0) -> qemu.Boot:
    machine = ("-rtc", "base=2025-01-01,clock=vm")
    return qemu.boot(
        kernel,
        initrd,
        append=append,
        smp=smp,
        memory_mib=MEMORY_MIB + more_mib,
        extra=machine,
        timeout_s=900,
    )


def test_file_grows_by_two_percent_at_most(
    distro: DistroFinder, vmlinuz: VmlinuzFinder, name: str
) -> None:
    original, rewritten = distro(name).vmlinuz, vmlinuz(name)
    assert rewritten.stat().st_size <= MOST_GROWTH * original.stat().st_size
    assert BzImage.parse(rewritten.read_bytes()).payload.compression.label == "xz"


def test_signature_is_dropped_and_nothing_else(
    distro: DistroFinder, vmlinuz: VmlinuzFinder, name: str
) -> None:
    assert certificates(distro(name).vmlinuz.read_bytes())[1] > 0
    assert certificates(vmlinuz(name).read_bytes()) == (0, 0)


def test_console_is_that_of_the_original(
    distro: DistroFinder, vmlinuz: VmlinuzFinder, initramfs: InitramfsBuilder, name: str
) -> None:
    archive = initramfs("workload.sh", ())
    append = f"{COMPARABLE} audit=0"  # which prints milliseconds since the machine was started
    original = boot(distro(name).vmlinuz, archive, append)
    rewritten = boot(vmlinuz(name), archive, append)
    assert rewritten.ending is qemu.Ending.RESET, str(rewritten)
    assert Console.parse(rewritten.console).done, str(rewritten)
    assert compare(original.console, rewritten.console) == []
    assert new_warnings(original.console, rewritten.console) == []


def where(console: str) -> int:
    """The address of the first byte of the running kernel, as whereabouts.sh prints it."""
    line = Console.parse(console).test[0]
    assert line.startswith("text "), console
    return int(line.removeprefix("text "), 16)


def test_every_random_address_works(
    vmlinuz: VmlinuzFinder, initramfs: InitramfsBuilder, name: str
) -> None:
    """The memory map is part of what Linux draws its address from."""
    archive = initramfs("whereabouts.sh", ())
    addresses = set()
    for more_mib in range(0, 160, 16):
        done = boot(vmlinuz(name), archive, "", more_mib=more_mib)
        check_finished(done)
        addresses.add(where(done.console))
    assert len(addresses) > 3, sorted(map(hex, addresses))


def test_two_processors_come_up(
    vmlinuz: VmlinuzFinder, initramfs: InitramfsBuilder, name: str
) -> None:
    done = boot(vmlinuz(name), initramfs("workload.sh", ()), "nokaslr", smp=2)
    check_finished(done)
    assert "Brought up 1 node, 2 CPUs" in done.console


def test_page_tables_are_isolated_on_request(
    vmlinuz: VmlinuzFinder, initramfs: InitramfsBuilder
) -> None:
    done = boot(vmlinuz("debian-686-pae"), initramfs("workload.sh", ()), f"{COMPARABLE} pti=on")
    check_finished(done)
    assert "isolation: enabled" in done.console


def test_grub_starts_it_at_a_random_address(
    vmlinuz: VmlinuzFinder, initramfs: InitramfsBuilder, name: str, tmp_path: Path
) -> None:
    done = firmware.boot_by_grub(vmlinuz(name), initramfs("whereabouts.sh", ()), tmp_path)
    check_finished(done)
    where(done.console)


def test_efi_stub_starts_it(
    vmlinuz: VmlinuzFinder, initramfs: InitramfsBuilder, name: str, tmp_path: Path
) -> None:
    done = firmware.boot_by_efi(vmlinuz(name), initramfs("workload.sh", ()), tmp_path)
    check_finished(done)
    assert "efi: EFI v" in done.console

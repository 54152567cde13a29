# SPDX-License-Identifier: MIT
"""Is what becomes of Debian's vmlinuz still that kernel, for every way to start it?"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.boot.conftest import COMPARABLE, check_finished
from tests.conftest import InitramfsBuilder
from tests.distro.conftest import NO_SELF_TESTS, DistroFinder, VmlinuzFinder
from tests.support import firmware, qemu
from tests.support.console import GuestConsole, compare, new_warnings
from tests.support.roms import rom_arguments
from vmipatch.choices import Flavor
from vmipatch.image.bzimage import BzImage
from vmipatch.image.repack.pe_header import certificates
from vmipatch.rom import build_rom

pytestmark = [pytest.mark.distro, pytest.mark.qemu]

MEMORY_MIB = 512
MOST_GROWTH = 1.02
OPTIONS = f"{COMPARABLE} {NO_SELF_TESTS}"
DICE = ("-cpu", "qemu32,+rdrand", "-seed")
"""Linux draws its address by RDRAND, and QEMU what RDRAND gives from the seed that follows."""
BOOTS, LEAST_ADDRESSES, MOST_BOOTS = 10, 8, 20
"""Ten boots draw fewer than eight of thirty addresses once in eight times: then there are more."""


def boot(
    kernel: Path, initrd: Path, append: str, smp: int = 1, extra: tuple[str, ...] = ()
) -> qemu.QemuBoot:
    machine = ("-rtc", "base=2025-01-01,clock=vm", *extra)
    return qemu.boot(
        kernel,
        initrd,
        append=append,
        smp=smp,
        memory_mib=MEMORY_MIB,
        extra=machine,
        timeout_s=900,
    )


def check_same(original: qemu.QemuBoot, rewritten: qemu.QemuBoot) -> None:
    """Both came to the end of the workload and said the same."""
    check_finished(rewritten)
    assert compare(original.console, rewritten.console) == []
    assert new_warnings(original.console, rewritten.console) == []


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
    check_same(*(boot(k, archive, OPTIONS) for k in (distro(name).vmlinuz, vmlinuz(name))))


LINKED_VA = 0xC1000000
"""Where both kernels are linked, and stay without KASLR."""


def where(console: str) -> int:
    """The address of the first byte of the running kernel, as whereabouts.sh prints it."""
    line = GuestConsole.parse(console).test[0]
    assert line.startswith("text "), console
    return int(line.removeprefix("text "), 16)


def test_every_random_address_works(
    vmlinuz: VmlinuzFinder, initramfs: InitramfsBuilder, name: str
) -> None:
    """Of 512 MiB: an address is a multiple of 16 MiB, which leaves some thirty."""
    archive = initramfs("whereabouts.sh", ())
    addresses: set[int] = set()
    for seed in range(MOST_BOOTS):
        if seed >= BOOTS and len(addresses) >= LEAST_ADDRESSES:
            break
        done = boot(vmlinuz(name), archive, NO_SELF_TESTS, extra=(*DICE, str(seed)))
        check_finished(done)
        addresses.add(where(done.console))
    assert len(addresses) >= LEAST_ADDRESSES, sorted(map(hex, addresses))


def test_two_processors_come_up(
    distro: DistroFinder, vmlinuz: VmlinuzFinder, initramfs: InitramfsBuilder, name: str
) -> None:
    archive = initramfs("workload.sh", ())
    original, rewritten = (
        boot(kernel, archive, OPTIONS, smp=2) for kernel in (distro(name).vmlinuz, vmlinuz(name))
    )
    check_same(original, rewritten)
    assert "Brought up 1 node, 2 CPUs" in rewritten.console


def test_page_tables_are_isolated_on_request(
    distro: DistroFinder, vmlinuz: VmlinuzFinder, initramfs: InitramfsBuilder
) -> None:
    archive, name = initramfs("workload.sh", ()), "debian-686-pae"
    original, rewritten = (
        boot(k, archive, f"{OPTIONS} pti=on") for k in (distro(name).vmlinuz, vmlinuz(name))
    )
    check_same(original, rewritten)
    assert "isolation: enabled" in rewritten.console


@pytest.mark.parametrize("pages", ["large", "small"])
def test_isolated_page_tables_and_a_rom_go_together(
    vmlinuz: VmlinuzFinder, initramfs: InitramfsBuilder, tmp_path: Path, pages: str
) -> None:
    """Entry code stays native: with small pages nothing else is mapped there."""
    rom = rom_arguments(build_rom(Flavor.NATIVE).data, tmp_path)
    cpu = ("-cpu", "qemu32,-pse") if pages == "small" else ()
    kernel, archive = vmlinuz("debian-686-pae"), initramfs("short.sh", ())
    done = boot(kernel, archive, f"{OPTIONS} pti=on", extra=(*rom, *cpu))
    check_finished(done)
    assert "vmi: paravirtual" in done.preface
    assert "isolation: enabled" in done.console


@pytest.mark.parametrize("option", ["", "nokaslr"])
def test_grub_starts_it(
    vmlinuz: VmlinuzFinder, initramfs: InitramfsBuilder, name: str, tmp_path: Path, option: str
) -> None:
    archive = initramfs("whereabouts.sh", ())
    append = f"{NO_SELF_TESTS} {option}"
    done = firmware.boot_by_grub(vmlinuz(name), archive, tmp_path, append)
    check_finished(done)
    assert (where(done.console) == LINKED_VA) or not option


def test_efi_stub_starts_it(
    vmlinuz: VmlinuzFinder, initramfs: InitramfsBuilder, name: str, tmp_path: Path
) -> None:
    archive = initramfs("workload.sh", ())
    done = firmware.boot_by_efi(vmlinuz(name), archive, tmp_path, NO_SELF_TESTS)
    check_finished(done)
    assert "efi: EFI v" in done.console

# SPDX-License-Identifier: MIT
"""Is a rewritten kernel a package like Debian's: built, installed, booted, and undone?"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.pipelines import bases
from tests.pipelines.chroot import Chroot, logged
from tests.pipelines.conftest import ChrootMaker
from tests.pipelines.debian import Package
from tests.support import qemu
from tests.support.roms import rom_arguments
from vmipatch.choices import Flavor
from vmipatch.image.elf import ElfImage
from vmipatch.rom import build_rom

pytestmark = pytest.mark.pipelines

DISK = "4G"
FIRST = r"""#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
dmesg -n 1
echo "release $(uname -r)"
for name in cpuid tun; do modprobe $name && echo "loaded $name"; done
dmesg | grep -o 'vmi: .*'
lsmod | sed 's/^\([a-z0-9_]*\) .*/is here: \1/'
findmnt -n -o SOURCE,FSTYPE /
echo "end of test"
mount -o remount,ro /
sleep 1
echo b > /proc/sysrq-trigger
"""
"""The first process of the file system on disk."""


def certificate(package: Package, name: str) -> dict[str, object]:
    path = package.unpacked() / f"usr/share/doc/{package.name}/{name}.certificate.json"
    found: dict[str, object] = json.loads(path.read_text())
    return found


def names_of(system_map: Path) -> set[str]:
    return {line.split()[2] for line in system_map.read_text().splitlines()}


def rewritten(package: Package) -> set[str]:
    """The names of the modules that hold sites."""
    modules = (package.unpacked() / "lib/modules").rglob("*.ko")
    images = {path.stem: ElfImage.parse(path.read_bytes(), path.name) for path in modules}
    return {
        name.replace("-", "_")
        for name, image in images.items()
        if ".vmi.annotation" in image.section_by_name
    }


def test_package_holds_a_whole_kernel(package: Package) -> None:
    files, release = package.unpacked(), package.release
    for path in (f"boot/vmlinuz-{release}", f"boot/config-{release}"):
        assert (files / path).stat().st_size, path
    before = names_of(package.chroot.path(f"/usr/lib/debug/boot/System.map-{release}"))
    after = names_of(files / f"boot/System.map-{release}")
    assert before <= after, "what mksysmap lists"
    assert all("vmi" in name for name in after - before), "and what was added"
    modules = files / f"lib/modules/{release}"
    assert (modules / "modules.order").is_file()
    assert {path.name for path in modules.rglob("*.ko")} >= {"ext4.ko", "tun.ko", "jbd2.ko"}
    assert not (modules / "modules.dep").exists(), "depmod makes it where it is installed"


def test_what_is_packed_is_what_was_proven(package: Package) -> None:
    import hashlib

    kernel = package.unpacked() / f"boot/vmlinuz-{package.release}"
    digest = hashlib.sha256(kernel.read_bytes()).hexdigest()
    assert digest in json.dumps(certificate(package, "vmlinuz"))
    tree = json.dumps(certificate(package, "modules"))
    for module in (package.unpacked() / "lib/modules").rglob("*.ko"):
        assert hashlib.sha256(module.read_bytes()).hexdigest() in tree, module


def test_package_comes_back_as_the_input(package: Package) -> None:
    unpacked = f"/build/unpacked/boot/vmlinuz-{package.release}"
    package.chroot.run(package.command, "restore", unpacked, "-o", "/build/vmlinuz.back")
    back = package.chroot.path("/build/vmlinuz.back").read_bytes()
    assert back == package.chroot.path(f"/boot/vmlinuz-{package.release}").read_bytes()


def test_package_takes_the_place_of_the_original(package: Package) -> None:
    fields = subprocess.run(
        ["dpkg-deb", "-f", package.deb], capture_output=True, text=True, check=True
    ).stdout
    original = f"linux-image-{package.release}"
    for name in ("Provides", "Conflicts", "Replaces"):
        (line,) = re.findall(rf"^{name}: (.*)$", fields, re.MULTILINE)
        assert re.search(rf"{re.escape(original)}(,| \(|$)", line), line


@pytest.fixture(scope="module")
def installed(package: Package, make_chroot: ChrootMaker) -> Chroot:
    """A machine on which the package is installed by dpkg."""
    chroot = make_chroot(bases.MACHINE, "debian-install")
    chroot.put(package.deb, f"/srv/{package.deb.name}")
    chroot.run("dpkg", "-i", f"/srv/{package.deb.name}")
    return chroot


def test_hooks_make_what_a_boot_needs(package: Package, installed: Chroot) -> None:
    release = package.release
    listed = installed.run("lsinitramfs", f"/boot/initrd.img-{release}")
    assert re.search(r"^usr/lib/modules/.*/ext4\.ko$", listed, re.MULTILINE)
    assert (installed.root / "vmlinuz").readlink() == Path(f"boot/vmlinuz-{release}")
    assert installed.path(f"/lib/modules/{release}/modules.dep").stat().st_size


@pytest.mark.qemu
def test_installed_kernel_boots_from_disk_on_the_rom(
    package: Package, installed: Chroot, scratch: Path
) -> None:
    first = installed.path("/first")
    first.write_text(FIRST)
    first.chmod(0o755)
    disk = scratch / "disk"
    logged(
        ["mke2fs", "-q", "-t", "ext4", "-d", str(installed.root), str(disk), DISK], installed.log
    )
    done = qemu.boot(
        installed.path(f"/boot/vmlinuz-{package.release}"),
        installed.path(f"/boot/initrd.img-{package.release}"),
        append="root=/dev/sda rw init=/first",
        memory_mib=512,
        extra=(
            *("-drive", f"file={disk},format=raw"),
            *rom_arguments(build_rom(Flavor.NATIVE).data, scratch),
        ),
        timeout_s=900,
    )
    with installed.log.open("a") as log:
        log.write(f"{done.preface}{done}\n")
    lines = done.console.splitlines()
    assert done.ending is qemu.QemuEnding.RESET, str(done)
    assert f"release {package.release}" in lines, str(done)
    assert {"loaded cpuid", "loaded tun", "/dev/sda ext4"} <= set(lines), str(done)
    assert re.search(r"vmi: .* sites patched", done.preface + done.console), str(done)
    here = set(re.findall(r"^is here: (\w+)$", done.console, re.MULTILINE))
    patched = set(re.findall(r"^vmi: module (\w+), \d+ sites patched", done.console, re.MULTILINE))
    assert {"ext4", "cpuid", "tun"} <= patched & here
    assert patched & here == rewritten(package) & here


def test_package_goes_without_a_trace(package: Package, make_chroot: ChrootMaker) -> None:
    chroot = make_chroot(bases.MACHINE, "debian-remove")
    chroot.put(package.deb, f"/srv/{package.deb.name}")
    chroot.run("dpkg", "-i", f"/srv/{package.deb.name}")
    chroot.run("dpkg", "--purge", package.name)
    assert not chroot.glob("/boot/*")
    left = {path.name for path in chroot.glob("/lib/modules/*/*")}
    assert left == {"build", "source"}, "the links of linux-headers"

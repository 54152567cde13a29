# SPDX-License-Identifier: MIT
"""Does a user's machine, i386 and with dkms, make modules that a kernel on the ROM loads?"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import InitramfsBuilder
from tests.pipelines import bases
from tests.pipelines.chroot import Chroot
from tests.pipelines.conftest import ChrootMaker
from tests.pipelines.debian import Package
from tests.pipelines.wheels import ROOT, Wheelhouse
from tests.support.signing import unsigned
from vmipatch.image.elf import ElfImage

pytestmark = pytest.mark.pipelines

RECIPE = ROOT / "examples" / "pipelines" / "dkms"
HELLO = Path(__file__).parent / "hello"
HOOK = "/usr/local/lib/vmipatch/dkms-sign"
SETTINGS = "/etc/dkms/framework.conf.d/vmipatch.conf"
SCRIPT = b"""
for kind in plain rewritten; do
    if insmod /modules/$kind.ko; then rmmod hello && echo "$kind came and went"; fi
done
"""


@dataclass(frozen=True, slots=True)
class Built:
    """The module as dkms made it, without the hook and with it."""

    chroot: Chroot
    plain: bytes
    """Neither rewritten nor signed."""
    rewritten: bytes
    """As it lies in /lib/modules."""
    command: str


def installed_module(chroot: Chroot) -> Path:
    """The module where depmod finds it."""
    (found,) = chroot.glob("/lib/modules/*/updates/dkms/hello.ko")
    return found


@pytest.fixture(scope="module")
def built(package: Package, make_chroot: ChrootMaker, i386_wheels: Wheelhouse) -> Built:
    """A machine on which the package was installed, and dkms ran by its hook."""
    chroot = make_chroot(bases.MACHINE, "dkms")
    command = i386_wheels.install(chroot)
    chroot.put(HELLO, "/usr/src/hello-1")
    chroot.put(RECIPE / "dkms-sign", HOOK)
    chroot.put(RECIPE / "vmipatch.conf", SETTINGS)
    chroot.run("dkms", "add", "hello/1")
    chroot.put(package.deb, f"/srv/{package.deb.name}")
    chroot.run("dpkg", "-i", f"/srv/{package.deb.name}")
    rewritten = installed_module(chroot).read_bytes()
    chroot.run("dkms", "remove", "hello/1", "--all")
    chroot.path(SETTINGS).unlink()
    chroot.run("dkms", "install", "hello/1", "-k", package.release)
    signed = installed_module(chroot).read_bytes()
    return Built(chroot, unsigned(signed), rewritten, command)


def test_dkms_rewrites_before_it_signs(built: Built) -> None:
    assert ".vmi.annotation" in ElfImage.parse(unsigned(built.rewritten), "hello").section_by_name
    plain = ElfImage.parse(built.plain, "hello").section_by_name
    assert ".vmi.annotation" not in plain


def test_module_is_proven_and_comes_back(built: Built) -> None:
    for name, data in (("plain.ko", built.plain), ("rewritten.ko", built.rewritten)):
        built.chroot.path(f"/srv/{name}").write_bytes(data)
    verify = ("verify", "/srv/rewritten.ko", "--original", "/srv/plain.ko")
    built.chroot.run(built.command, *verify)
    built.chroot.run(built.command, "restore", "/srv/rewritten.ko", "-o", "/srv/back.ko")
    assert built.chroot.path("/srv/back.ko").read_bytes() == built.plain


def test_kernel_on_the_rom_loads_it_and_refuses_it_unrewritten(
    built: Built, package: Package, initramfs: InitramfsBuilder, scratch: Path
) -> None:
    files = {"modules/plain.ko": built.plain, "modules/rewritten.ko": built.rewritten}
    initrd = initramfs("short.sh", (*files.items(), ("test", SCRIPT)))
    kernel = package.unpacked() / f"boot/vmlinuz-{package.release}"
    command = [sys.executable, "-m", "vmipatch", "run", "--paravirt", str(kernel)]
    options = ["--initrd", str(initrd), "--append", "console=ttyS0 cryptomgr.notests"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    with built.chroot.log.open("a") as log:
        log.write(done.stdout + done.stderr)
    said = done.stdout
    assert "rewritten came and went" in said
    assert "hello: interrupts are off, cpuid 1" in said
    assert "hello: interrupts are on" in said
    assert "plain came and went" not in said
    assert "vmi: module hello refused: not rewritten, silently wrong here" in said

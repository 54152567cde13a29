# SPDX-License-Identifier: MIT
"""Is a kernel rewritten as it is installed, by kernel-install and by installkernel?"""

from __future__ import annotations

import pytest

from tests.conftest import KernelFinder
from tests.pipelines import bases
from tests.pipelines.chroot import Chroot
from tests.pipelines.conftest import ChrootMaker
from tests.pipelines.wheels import COMMAND, ROOT, Wheelhouse

pytestmark = pytest.mark.pipelines

RECIPE = ROOT / "examples" / "pipelines" / "install"
LIBRARY = "/usr/local/lib/vmipatch/vmipatch-kernel"
RELEASE = "6.1.0-tiny"
MACHINE_ID = "0123456789abcdef0123456789abcdef"
IMAGE = f"/usr/lib/modules/{RELEASE}/vmlinuz"


@pytest.fixture(scope="module")
def machine(make_chroot: ChrootMaker, i386_wheels: Wheelhouse, kernel: KernelFinder) -> Chroot:
    """A machine with the recipe's files, and a kernel with its debug twin, not installed."""
    chroot = make_chroot(bases.MACHINE, "install")
    i386_wheels.install(chroot)
    vmlinux = kernel("tiny")
    chroot.put(vmlinux.with_name("bzImage"), IMAGE)
    chroot.put(vmlinux, f"/usr/lib/debug/boot/vmlinux-{RELEASE}")
    # update-initramfs asks it how the kernel unpacks.
    chroot.put(vmlinux.with_name("config"), f"/boot/config-{RELEASE}")
    chroot.put(RECIPE / "vmipatch-kernel", LIBRARY)
    chroot.put(RECIPE / "95-vmipatch.install", "/etc/kernel/install.d/95-vmipatch.install")
    chroot.put(RECIPE / "00-vmipatch", "/etc/kernel/postinst.d/00-vmipatch")
    return chroot


def check_rewritten(chroot: Chroot, inside: str) -> None:
    """It is another file than the original, which it gives back, and nothing is left beside it."""
    place, original = chroot.path(inside), chroot.path(IMAGE).read_bytes()
    assert place.read_bytes() != original
    chroot.run(COMMAND, "restore", inside, "-o", "/srv/back")
    assert chroot.path("/srv/back").read_bytes() == original
    assert not list(place.parent.glob("*.vmi*"))


def test_kernel_install_puts_a_rewritten_kernel_on_the_boot_partition(machine: Chroot) -> None:
    machine.path("/etc/machine-id").write_text(f"{MACHINE_ID}\n")
    machine.path("/etc/kernel/install.conf").write_text("layout=bls\nBOOT_ROOT=/boot\n")
    machine.path("/etc/kernel/cmdline").write_text("console=ttyS0\n")
    machine.path(f"/boot/{MACHINE_ID}").mkdir(exist_ok=True)
    before = machine.path(IMAGE).read_bytes()
    machine.run("kernel-install", "--verbose", "add", RELEASE, IMAGE)
    check_rewritten(machine, f"/boot/{MACHINE_ID}/{RELEASE}/linux")
    assert machine.path(IMAGE).read_bytes() == before, "the package's file stays"
    machine.run("kernel-install", "remove", RELEASE)
    assert not machine.path(f"/boot/{MACHINE_ID}/{RELEASE}").exists()


def test_installkernel_rewrites_what_make_install_gives_it(machine: Chroot) -> None:
    machine.path("/srv/System.map").write_text("c1000000 T _text\n")
    machine.run("installkernel", RELEASE, IMAGE, "/srv/System.map", "/boot")
    check_rewritten(machine, f"/boot/vmlinuz-{RELEASE}")


def test_rewritten_kernel_stays_as_it_is(machine: Chroot) -> None:
    machine.path("/srv/twice").write_bytes(machine.path(IMAGE).read_bytes())
    machine.run(LIBRARY, RELEASE, "/srv/twice")
    once = machine.path("/srv/twice").read_bytes()
    machine.run(LIBRARY, RELEASE, "/srv/twice")
    assert machine.path("/srv/twice").read_bytes() == once
    check_rewritten(machine, "/srv/twice")


def test_what_is_not_a_kernel_stays_as_it_is(machine: Chroot) -> None:
    machine.path("/srv/other").write_bytes(b"MZ, but nothing that boots")
    said = machine.run(LIBRARY, RELEASE, "/srv/other")
    assert "stays as it is" in said
    assert machine.path("/srv/other").read_bytes() == b"MZ, but nothing that boots"


def test_files_of_packages_are_left_alone(machine: Chroot) -> None:
    machine.run("/etc/kernel/postinst.d/00-vmipatch", RELEASE, "/bin/true")
    assert "vmipatch-kernel" not in machine.run(
        "/etc/kernel/postinst.d/00-vmipatch", RELEASE, "/usr/lib/os-release"
    )

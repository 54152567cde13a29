# SPDX-License-Identifier: MIT
"""Do the macros work in a spec file, by rpmbuild, and does rpmlint have nothing against it?"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tests.conftest import KernelFinder
from tests.pipelines import bases
from tests.pipelines.chroot import Chroot
from tests.pipelines.conftest import ChrootMaker
from tests.pipelines.wheels import ROOT, Wheelhouse
from tests.support.smallmodule import SmallModule

pytestmark = pytest.mark.pipelines

RECIPE = ROOT / "examples" / "pipelines" / "rpm"
RELEASE = "6.1.176-1.i686"
FROM = "/srv/kernel"
SPEC = "/srv/kernel-vmi.spec"
RPMLINTRC = "/srv/kernel-vmi.rpmlintrc"


@pytest.fixture(scope="module")
def builder(make_chroot: ChrootMaker, i386_wheels: Wheelhouse, kernel: KernelFinder) -> Chroot:
    """A machine with the recipe's files and the unpacked packages of a kernel."""
    chroot = make_chroot(bases.RPM, "rpm")
    i386_wheels.install(chroot)
    vmlinux = kernel("tiny")
    chroot.put(vmlinux.with_name("bzImage"), f"{FROM}/lib/modules/{RELEASE}/vmlinuz")
    chroot.put(vmlinux, f"{FROM}/usr/lib/debug/lib/modules/{RELEASE}/vmlinux")
    module = SmallModule()
    module.section(".text").function("small", "9c 58 fa", "c3")
    place = chroot.path(f"{FROM}/lib/modules/{RELEASE}/kernel/small.ko")
    place.parent.mkdir(parents=True)
    place.write_bytes(module.build())
    chroot.put(RECIPE / "macros.vmipatch", "/usr/lib/rpm/macros.d/macros.vmipatch")
    chroot.put(RECIPE / "kernel-vmi.spec", SPEC)
    chroot.put(RECIPE / "kernel-vmi.rpmlintrc", RPMLINTRC)
    return chroot


def test_rpmlint_has_nothing_against_it(builder: Chroot) -> None:
    # It has no option for a definition.
    (builder.path("/root") / ".rpmmacros").write_text(f"%kernel_release {RELEASE}\n")
    said = builder.run("rpmlint", SPEC)
    assert " 0 errors, 0 warnings" in said


@pytest.fixture(scope="module")
def files(builder: Chroot) -> Path:
    """The files of the package that rpmbuild makes."""
    names = {"kernel_release": RELEASE, "kernel_root": FROM}
    defines = [word for name in names for word in ("--define", f"{name} {names[name]}")]
    builder.run("rpmbuild", "-bb", "--nodeps", "--target", "i686", *defines, SPEC)
    builder.shell("mkdir /srv/out; cd /srv/out; rpm2cpio ~/rpmbuild/RPMS/i686/*.rpm | cpio -id")
    return builder.path("/srv/out")


@pytest.mark.parametrize(
    ("path", "name"),
    [(f"{RELEASE}/vmlinuz", "vmlinuz"), (f"{RELEASE}/kernel/small.ko", "modules")],
)
def test_packed_file_is_the_proven_one(files: Path, builder: Chroot, path: str, name: str) -> None:
    packed = files / "lib/modules" / path
    before = builder.path(f"{FROM}/lib/modules/{path}")
    assert packed.read_bytes() != before.read_bytes()
    (certificate,) = files.rglob(f"{name}.certificate.json")
    digest = hashlib.sha256(packed.read_bytes()).hexdigest()
    assert digest in json.dumps(json.loads(certificate.read_text()))


def test_system_map_is_that_of_the_new_kernel(files: Path) -> None:
    text = (files / f"lib/modules/{RELEASE}/System.map").read_text()
    assert " start_kernel\n" in text

# SPDX-License-Identifier: MIT
"""Does the wheel install where users have it, and give the same bytes there?

Python 3.11 on this machine; Debian 12 and 13 for i386 with their own numpy; Debian 13 and sid.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import KernelFinder
from tests.pipelines import bases
from tests.pipelines.chroot import logged
from tests.pipelines.conftest import ChrootMaker, log_of
from tests.pipelines.wheels import Wheelhouse

pytestmark = pytest.mark.pipelines

HOSTS = {
    "Debian 12 i386": (bases.MACHINE, "3.11"),
    "Debian 13": (bases.TRIXIE, "3.13"),
    "Debian 13 i386": (bases.TRIXIE_I386, "3.13"),
    "Debian sid": (bases.SID, "3.14"),
}
"""From a release to its chroot and its Python."""


@pytest.fixture(scope="module")
def expected(kernel: KernelFinder, wheel: Path, scratch: Path) -> str:
    """SHA-256 of tiny, rewritten by the wheel in an environment of its own on this machine."""
    log, place = log_of("wheel-amd64"), scratch / "environment"
    logged([sys.executable, "-m", "venv", str(place)], log)
    logged([str(place / "bin/pip"), "install", "--quiet", str(wheel)], log)
    output = scratch / "tiny.vmi"
    command = [str(place / "bin/vmipatch"), "rewrite", str(kernel("tiny")), "-o", str(output)]
    logged(command, log)
    return hashlib.sha256(output.read_bytes()).hexdigest()


@pytest.mark.parametrize("host", HOSTS)
def test_tiny_is_the_same_on_every_host(
    host: str,
    expected: str,
    kernel: KernelFinder,
    wheel: Path,
    make_chroot: ChrootMaker,
    scratch: Path,
) -> None:
    base, python = HOSTS[host]
    name = f"wheel-{base.suite}-{base.architecture}"
    chroot = make_chroot(base, name)
    assert chroot.run("python3", "-V").startswith(f"Python {python}")
    wheels = scratch / f"{name}-wheels"
    shutil.copytree(wheel.parent, wheels)
    command = Wheelhouse.fetch(wheels, python, base.architecture, chroot.log).install(chroot)
    chroot.put(kernel("tiny"), "/srv/vmlinux")
    chroot.run(command, "rewrite", "/srv/vmlinux", "-o", "/srv/vmlinux.vmi")
    data = chroot.path("/srv/vmlinux.vmi").read_bytes()
    assert hashlib.sha256(data).hexdigest() == expected
    chroot.run(command, "verify", "--static", "/srv/vmlinux.vmi", "--original", "/srv/vmlinux")
    chroot.run(command, "restore", "/srv/vmlinux.vmi", "-o", "/srv/back")
    assert chroot.path("/srv/back").read_bytes() == kernel("tiny").read_bytes()


def test_wheel_is_fit_for_an_index(wheel: Path, scratch: Path) -> None:
    log, place = log_of("wheel-twine"), scratch / "twine"
    logged([sys.executable, "-m", "venv", str(place)], log)
    logged([str(place / "bin/pip"), "install", "--quiet", "twine"], log)
    said = logged([str(place / "bin/twine"), "check", "--strict", str(wheel)], log)
    assert "PASSED" in said


def test_wheel_holds_all_of_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if not name.startswith("vmipatch-")} == {
        "vmipatch"
    }
    assert "vmipatch/py.typed" in names
    assert any(name.startswith("vmipatch/rom/") and name.endswith(".S") for name in names)

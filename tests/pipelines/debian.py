# SPDX-License-Identifier: MIT
"""How is the recipe examples/pipelines/debian executed?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.pipelines.chroot import Chroot
from tests.pipelines.wheels import ROOT

RECIPE = ROOT / "examples" / "pipelines" / "debian"
TRIAL = "pkg.linux-vmi.trial"
SOURCE = "/build/linux-vmi"


@dataclass(frozen=True, slots=True)
class Package:
    """A package of a rewritten kernel, and where it was built."""

    chroot: Chroot
    release: str
    command: str
    """vmipatch in the chroot."""

    @property
    def name(self) -> str:
        return f"linux-image-{self.release}-vmi"

    @property
    def deb(self) -> Path:
        """The binary package, as a path of this machine."""
        (found,) = self.chroot.glob(f"/build/{self.name}_*_i386.deb")
        return found

    def unpacked(self) -> Path:
        """Its files below a directory of the chroot."""
        if not (place := self.chroot.path("/build/unpacked")).exists():
            self.chroot.run("dpkg-deb", "-x", f"/build/{self.deb.name}", "/build/unpacked")
        return place


def release_of(chroot: Chroot) -> str:
    """The release of the one kernel that is installed there."""
    (found,) = chroot.glob("/boot/vmlinuz-*")
    return found.name.removeprefix("vmlinuz-")


def build_package(chroot: Chroot, command: str, profiles: str = TRIAL) -> Package:
    """Do what the recipe's README says, for the kernel that is installed in the chroot."""
    release = release_of(chroot)
    chroot.put(RECIPE, SOURCE)
    build = f"cd {SOURCE} && debian/configure {release} && dpkg-buildpackage -b -uc"
    chroot.shell(build, VMIPATCH=command, DEB_BUILD_PROFILES=profiles)
    return Package(chroot, release, command)

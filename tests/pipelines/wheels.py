# SPDX-License-Identifier: MIT
"""How does vmipatch get into a chroot? As a user gets it: a wheel, and wheels of what it needs.

They are fetched outside, so that a chroot needs no settings of pip's and no network.
"""

from __future__ import annotations

import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from tests.pipelines.chroot import Chroot, logged

ROOT = Path(__file__).parents[2]
GLIBCS = ("manylinux_2_28", "manylinux_2_17", "manylinux2014", "manylinux2010", "manylinux1")
MACHINES = {"i386": "i686", "amd64": "x86_64"}
COMMAND = "/opt/vmipatch/bin/vmipatch"
OF_DEBIAN = {"i386": ("numpy",), "amd64": ()}
"""Libraries that come from Debian, as the index has no wheel for them."""


def build_wheel(place: Path, log: Path) -> Path:
    """The project's own wheel, as `pip wheel` makes it of this tree."""
    logged([*_pip("wheel"), "--no-deps", "--wheel-dir", str(place), str(ROOT)], log)
    (wheel,) = place.glob("vmipatch-*.whl")
    return wheel


def requirements(architecture: str) -> list[str]:
    """The libraries that the project needs, without those of Debian."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named: list[str] = project["dependencies"]
    return [line for line in named if not line.startswith(OF_DEBIAN[architecture])]


@dataclass(frozen=True, slots=True)
class Wheelhouse:
    """A directory of wheels for one Python on one architecture."""

    directory: Path

    @classmethod
    def fetch(cls, place: Path, python: str, architecture: str, log: Path) -> Wheelhouse:
        """Everything for a Python such as 3.11; `place` has the project's own wheel."""
        platforms = [f"--platform={glibc}_{MACHINES[architecture]}" for glibc in GLIBCS]
        command = [*_pip("download"), "--only-binary=:all:", f"--python-version={python}"]
        command += [*platforms, "--implementation=cp", "--dest", str(place)]
        if OF_DEBIAN[architecture]:
            command.append("--no-deps")
        logged([*command, *requirements(architecture)], log)
        return cls(place)

    def install(self, chroot: Chroot) -> str:
        """Install vmipatch in a chroot, as examples/pipelines/README.md says; its command."""
        chroot.put(self.directory, "/wheels")
        system = ["--system-site-packages"] if OF_DEBIAN[chroot.architecture] else []
        chroot.run("python3", "-m", "venv", *system, "/opt/vmipatch")
        options = ("--no-index", "--find-links", "/wheels", "--disable-pip-version-check")
        chroot.run("/opt/vmipatch/bin/pip", "install", *options, "vmipatch")
        return COMMAND


def _pip(command: str) -> list[str]:
    return [sys.executable, "-m", "pip", command, "--quiet", "--disable-pip-version-check"]

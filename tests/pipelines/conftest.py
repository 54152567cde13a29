# SPDX-License-Identifier: MIT
"""Where do the tests of recipes get chroots, wheels and packages from?"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.pipelines import bases
from tests.pipelines.chroot import Base, Chroot
from tests.pipelines.debian import Package, build_package
from tests.pipelines.wheels import ROOT, Wheelhouse, build_wheel

LOGS = ROOT / "build" / "pipelines"

ChrootMaker = Callable[[Base, str], Chroot]
"""From a base and the name of a log to a fresh copy."""


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A directory for file systems of gigabytes, which pytest would keep of three runs."""
    with tempfile.TemporaryDirectory(prefix="pipelines-", dir="/var/tmp") as directory:
        yield Path(directory)


def log_of(name: str) -> Path:
    """A fresh log, which is kept."""
    log = LOGS / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("")
    return log


@pytest.fixture(scope="session")
def make_chroot(scratch: Path) -> Iterator[ChrootMaker]:
    """Fresh chroots, which are gone after the session."""
    with ExitStack() as made:

        def make(base: Base, name: str) -> Chroot:
            chroot = Chroot.of(base, scratch / name, log_of(name))
            made.callback(chroot.close)
            return chroot

        yield make


@pytest.fixture(scope="session")
def wheel(scratch: Path) -> Path:
    """The project's own wheel, alone in its directory."""
    return build_wheel(scratch / "wheel", log_of("wheel"))


@pytest.fixture(scope="session")
def i386_wheels(wheel: Path, scratch: Path) -> Wheelhouse:
    """The wheels that Debian 12 for i386 needs besides its own packages."""
    place = scratch / "wheels-i386"
    shutil.copytree(wheel.parent, place)
    return Wheelhouse.fetch(place, "3.11", "i386", log_of("wheels-i386"))


@pytest.fixture(scope="session")
def package(make_chroot: ChrootMaker, i386_wheels: Wheelhouse) -> Package:
    """Debian's 686, rewritten and packed by the recipe, with some of its modules."""
    chroot = make_chroot(bases.PACKAGER, "debian-build")
    return build_package(chroot, i386_wheels.install(chroot))

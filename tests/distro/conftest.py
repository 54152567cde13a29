# SPDX-License-Identifier: MIT
"""Where do tests get Debian's own kernels and their rewritten twins from?"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

import pytest

from tests.conftest import KernelFinder, missing
from tests.support import kernels
from vmipatch.scan.site import Site

DistroFinder = Callable[[str], kernels.DistroKernel]
"""From debian-686 or debian-686-pae to that kernel."""
VmlinuzFinder = Callable[[str], Path]
"""From its name to the vmlinuz that vmipatch made of its vmlinuz."""

NO_SELF_TESTS = "cryptomgr.notests"
"""Ciphers test themselves at boot: minutes of virtual time with long numbers, nothing else."""


class RewrittenFrom(enum.Enum):
    """The kind of file that was rewritten."""

    TWIN = "twin"
    """The vmlinuz with its debug twin."""
    ALONE = "alone"
    """The vmlinuz and nothing else."""


@dataclass(frozen=True, slots=True)
class Shipped:
    """A rewritten vmlinuz, and what is known of it."""

    vmlinuz: Path
    vmlinux: Path
    """The kernel inside, with symbols."""
    sites: Mapping[int, Site]
    """Every site of the original by its address there, and what became of it."""


ShippedFinder = Callable[..., Shipped]
"""shipped(name, source=Source.TWIN)"""


@pytest.fixture(params=kernels.DISTRO_FLAVOURS)
def name(request: pytest.FixtureRequest) -> str:
    """Each of Debian's kernels in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def distro() -> DistroFinder:
    """A kernel of Debian's by name; skips, or fails in CI, where it has not been fetched."""

    def find(name: str) -> kernels.DistroKernel:
        return kernels.find_distro(name) or missing(f"Debian's kernel {name}", "make test-distro")

    return find


@pytest.fixture(scope="session")
def distro_rewritten(
    distro: DistroFinder, tmp_path_factory: pytest.TempPathFactory
) -> KernelFinder:
    """The rewritten vmlinux of a kernel of Debian's by name, made once in a session."""
    directory = tmp_path_factory.mktemp("distro")

    @cache
    def rewrite_once(name: str) -> Path:
        from vmipatch.image.elf import ElfImage
        from vmipatch.rewrite import RewriteOptions, rewrite

        original = ElfImage.parse(distro(name).vmlinux.read_bytes(), name)
        output = directory / f"{name}.vmlinux"
        output.write_bytes(rewrite(original, RewriteOptions()).data)
        return output

    return rewrite_once


@pytest.fixture(scope="session")
def shipped(distro: DistroFinder, tmp_path_factory: pytest.TempPathFactory) -> ShippedFinder:
    """The rewritten vmlinuz of a kernel of Debian's, made once in a session."""
    directory = tmp_path_factory.mktemp("shipped")

    @cache
    def rewrite_once(name: str, source: RewrittenFrom = RewrittenFrom.TWIN) -> Shipped:
        from vmipatch.choices import BootCodeChoice
        from vmipatch.image.bzimage import BzImage
        from vmipatch.image.elf import ElfImage
        from vmipatch.recover import recover
        from vmipatch.rewrite.bzimage import rewrite_bzimage

        kernel = distro(name)
        data = kernel.vmlinuz.read_bytes()
        packed = BzImage.parse(data, name)
        if source is RewrittenFrom.TWIN:
            debug = ElfImage.parse(kernel.vmlinux.read_bytes(), name)
            made = rewrite_bzimage(data, packed, debug, choice=BootCodeChoice.KEEP)
        else:
            image = ElfImage.parse(packed.vmlinux, name)
            found = recover(image, packed.relocs)
            keep = BootCodeChoice.KEEP
            made = rewrite_bzimage(data, packed, found.kernel, None, keep)
        assert made.repeats
        vmlinuz, vmlinux = (directory / f"{name}.{source.value}.{n}" for n in ("vmlinuz", "elf"))
        vmlinuz.write_bytes(made.data)
        vmlinux.write_bytes(made.kernel.data)
        sites = {site.va: site for site in made.kernel.scan.sites}
        return Shipped(vmlinuz, vmlinux, MappingProxyType(sites))

    return rewrite_once


@pytest.fixture(scope="session")
def vmlinuz(shipped: ShippedFinder) -> VmlinuzFinder:
    """The rewritten vmlinuz of a kernel of Debian's by name, made with its debug twin."""
    return lambda name: shipped(name).vmlinuz

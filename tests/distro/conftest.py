# SPDX-License-Identifier: MIT
"""Where do tests get Debian's own kernels and their rewritten twins from?"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import KernelFinder, missing
from tests.support import kernels

DistroFinder = Callable[[str], kernels.DistroKernel]
"""From debian-686 or debian-686-pae to that kernel."""
VmlinuzFinder = Callable[[str], Path]
"""From its name to the vmlinuz that vmipatch made of its vmlinuz."""


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
def vmlinuz(distro: DistroFinder, tmp_path_factory: pytest.TempPathFactory) -> VmlinuzFinder:
    """The rewritten vmlinuz of a kernel of Debian's by name, made once in a session."""
    directory = tmp_path_factory.mktemp("vmlinuz")

    @cache
    def rewrite_once(name: str) -> Path:
        from vmipatch.image.bzimage import BzImage
        from vmipatch.image.elf import ElfImage
        from vmipatch.rewrite.bzimage import BootCodeChoice, rewrite_bzimage

        kernel = distro(name)
        data = kernel.vmlinuz.read_bytes()
        debug = ElfImage.parse(kernel.vmlinux.read_bytes(), name)
        made = rewrite_bzimage(data, BzImage.parse(data), debug, choice=BootCodeChoice.KEEP)
        assert made.repeats
        output = directory / name
        output.write_bytes(made.data)
        return output

    return rewrite_once

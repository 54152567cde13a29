# SPDX-License-Identifier: MIT
"""Where do tests get kernels, rewritten kernels and initial file systems from?"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, settings

from tests.support import initramfs as packing
from tests.support import kernels
from tests.support.absent import absent

# How long an example takes says something about the host, and nothing about vmipatch.
settings.register_profile("new", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# The same examples in each run (docs/decisions/0053); `--hypothesis-profile=new` draws others.
settings.register_profile("same", settings.get_profile("new"), derandomize=True)
settings.load_profile("same")

KernelFinder = Callable[[str], Path]
"""From the name of a test kernel to its vmlinux."""
InitramfsBuilder = Callable[[str, tuple[tuple[str, bytes], ...]], Path]
"""From the name of a script in tests/kernels/initramfs, and more files (path and content), to an
initial file system that runs the script."""


def missing(what: str, remedy: str = "make kernels") -> NoReturn:
    """End the test for want of a kernel: a failure in CI, where everything has to run."""
    absent(f"{what} is missing: run `{remedy}`, or set {kernels.CACHE_VARIABLE} to a cache")


@pytest.fixture(scope="session")
def kernel() -> KernelFinder:
    """The vmlinux of a test kernel by name; skips, or fails in CI, where it has not been built."""

    def find(name: str) -> Path:
        built = kernels.find(name)
        return built.vmlinux if built else missing(f"the test kernel {name}")

    return find


@pytest.fixture(scope="session")
def initramfs(tmp_path_factory: pytest.TempPathFactory) -> InitramfsBuilder:
    """An initial file system whose /test is the named script; all scripts are in its root."""
    directory = tmp_path_factory.mktemp("initramfs")
    scripts = {path.name: path.read_bytes() for path in packing.SOURCES.glob("*.sh")}

    @cache
    def build(test: str, extra: tuple[tuple[str, bytes], ...] = ()) -> Path:
        busybox = kernels.find_busybox() or missing("busybox")
        handle, name = tempfile.mkstemp(dir=directory, prefix=test, suffix=".cpio")
        with os.fdopen(handle, "wb") as archive:
            archive.write(packing.build(busybox, test, {**scripts, **dict(extra)}))
        return Path(name)

    return build


@pytest.fixture(scope="session")
def rewritten(kernel: KernelFinder, tmp_path_factory: pytest.TempPathFactory) -> KernelFinder:
    """The rewritten vmlinux of a test kernel by name, made once in a session."""
    directory = tmp_path_factory.mktemp("rewritten")

    @cache
    def rewrite_once(name: str) -> Path:
        from vmipatch.image.elf import ElfImage
        from vmipatch.rewrite import RewriteOptions, rewrite

        original = ElfImage.parse(kernel(name).read_bytes(), name)
        output = directory / f"{name}.vmlinux"
        output.write_bytes(rewrite(original, RewriteOptions()).data)
        return output

    return rewrite_once


@pytest.fixture(scope="session")
def multiboot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example multiboot kernel, which is not Linux."""
    from examples.multiboot.build import build

    path = tmp_path_factory.mktemp("multiboot") / "kernel"
    path.write_bytes(build())
    return path


@pytest.fixture(scope="session")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example kernel: a vmlinux that every command accepts."""
    from examples.guest.build import build

    path = tmp_path_factory.mktemp("guest") / "vmlinux"
    path.write_bytes(build())
    return path

# SPDX-License-Identifier: MIT
"""Which kernels do the tests run, and where are they? Recipes and the cache.

A cache holds NAME/{config,vmlinux,bzImage,System.map} of kernels built for the tests,
NAME/{config,modules} of modules for one of them, NAME/{config,vmlinux,vmlinuz,System.map,modules}
of Debian's own, and initramfs.cpio.gz. The variable VMIPATCH_KERNELS names one that is looked at
first and never written to: new kernels go to the default cache.
"""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support import initramfs

FRAGMENTS = Path(__file__).parents[1] / "kernels"
CACHE_VARIABLE = "VMIPATCH_KERNELS"
INITRAMFS_NAME = "initramfs.cpio.gz"

_OPTION = re.compile(r"CONFIG_\w+=.*|# CONFIG_\w+ is not set")


@dataclass(frozen=True, slots=True)
class Recipe:
    """A kernel that tests ask for by name."""

    name: str
    fragments: tuple[str, ...]
    """Files of tests/kernels, without `.config`, that together are the configuration."""
    compressions: tuple[str, ...] = ()
    """Which bzImages of the same vmlinux there are besides, as bzImage.NAME."""
    of_kernel: str = ""
    """The recipe of the kernel for which these are modules, and nothing else."""

    def fragment(self) -> str:
        """The whole configuration fragment, for KCONFIG_ALLCONFIG."""
        return "\n".join((FRAGMENTS / f"{name}.config").read_text() for name in self.fragments)

    def options(self) -> frozenset[str]:
        """The lines that a configuration must hold to be of this recipe."""
        return frozenset(line for line in self.fragment().splitlines() if _OPTION.fullmatch(line))


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("tiny", ("common", "tiny", "speed")),
        Recipe("tiny-os", ("common", "tiny", "size")),
        Recipe("smp-pae", ("common", "smp-pae", "speed")),
    )
}
"""The kernels that `make kernels` builds."""

PACKED = Recipe(
    "tiny-packed",
    ("common", "tiny", "speed"),
    ("gzip", "bzip2", "lzma", "xz", "lzo", "lz4", "zstd"),
)
"""tiny with every compression that Linux knows for i386."""

MODULES = Recipe("smp-pae-modules", ("common", "smp-pae", "modules", "speed"), of_kernel="smp-pae")
"""Modules that smp-pae, which itself has none, can load."""

ON_REQUEST = {recipe.name: recipe for recipe in (PACKED, MODULES)}
"""The kernels that are built when they are named."""


def recipe(name: str) -> Recipe:
    """The recipe of this name. Raises KeyError."""
    return (RECIPES | ON_REQUEST)[name]


@dataclass(frozen=True, slots=True)
class DistroKernel:
    """One of Debian 12's own kernels for i386, as its packages have it."""

    directory: Path

    @property
    def vmlinuz(self) -> Path:
        """The bzImage of the image package."""
        return self.directory / "vmlinuz"

    @property
    def vmlinux(self) -> Path:
        """The ELF file of the debug package: the payload's bytes, symbols and relocations."""
        return self.directory / "vmlinux"

    @property
    def system_map(self) -> Path:
        """The debug package's list of symbols; the image package's is a stub."""
        return self.directory / "System.map"

    @property
    def modules(self) -> Path:
        """The package's files below /lib/modules/RELEASE."""
        return self.directory / "modules"

    @property
    def config(self) -> Path:
        """The configuration it was built from."""
        return self.directory / "config"

    def complete(self) -> bool:
        """Whether all of it is there."""
        files = (self.vmlinuz, self.vmlinux, self.system_map, self.config)
        return all(file.is_file() for file in files) and self.modules.is_dir()


DISTRO_FLAVOURS = {"debian-686": "686", "debian-686-pae": "686-pae"}
"""From the name of a distribution's kernel to the end of its package's name, linux-image-..."""

FOREIGN = "debian-foreign"
"""Debian's kernels that are not Linux (tests/kernels/foreign.sh), as one entry of a cache."""
FOREIGN_KERNELS = ("gnumach", "gnumach-dbg", "gnumach-xen", "gnumach-xen-dbg", "grub", "u-boot")


@dataclass(frozen=True, slots=True)
class BuiltKernel:
    """One kernel of a cache."""

    directory: Path

    @property
    def vmlinux(self) -> Path:
        """The ELF file with symbols and relocations."""
        return self.directory / "vmlinux"

    @property
    def config(self) -> Path:
        """The configuration it was built from."""
        return self.directory / "config"

    @property
    def modules(self) -> Path:
        """Files that belong below /lib/modules/RELEASE, of a recipe of modules."""
        return self.directory / "modules"

    def follows(self, recipe: Recipe) -> bool:
        """Whether all files are there and the configuration is that of `recipe`."""
        if recipe.of_kernel:
            complete = self.modules.is_dir() and self.config.is_file()
            return complete and self._holds(recipe)
        names = ["config", "vmlinux", "bzImage", "System.map"]
        names += [f"bzImage.{name}" for name in recipe.compressions]
        if not all((self.directory / name).is_file() for name in names):
            return False
        return self._holds(recipe)

    def _holds(self, recipe: Recipe) -> bool:
        return recipe.options() <= set(self.config.read_text().splitlines())


def default_cache() -> Path:
    """Where kernels are built to."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "vmipatch" / "kernels"


def caches() -> Iterator[Path]:
    """Where kernels are looked for, in order."""
    if named := os.environ.get(CACHE_VARIABLE):
        yield Path(named)
    yield default_cache()


def find(name: str) -> BuiltKernel | None:
    """The kernel `name` of the first cache that has it as its recipe says, or None."""
    candidates = (BuiltKernel(cache / name) for cache in caches())
    return next((built for built in candidates if built.follows(recipe(name))), None)


def find_distro(name: str) -> DistroKernel | None:
    """Debian's kernel `name` of the first cache that has all of it, or None."""
    if name not in DISTRO_FLAVOURS:
        raise KeyError(name)
    candidates = (DistroKernel(cache / name) for cache in caches())
    return next((kernel for kernel in candidates if kernel.complete()), None)


def find_foreign(name: str) -> Path | None:
    """One of FOREIGN_KERNELS in the first cache that has them, or None."""
    if name not in FOREIGN_KERNELS:
        raise KeyError(name)
    candidates = (cache / FOREIGN / name for cache in caches())
    return next((path for path in candidates if path.is_file()), None)


def find_busybox() -> bytes | None:
    """The static i386 busybox of the first cache that has an initial file system, or None."""
    for cache in caches():
        archive = cache / INITRAMFS_NAME
        if archive.is_file():
            contents = initramfs.members(gzip.decompress(archive.read_bytes()))
            return next((m.data for m in contents if m.path == initramfs.BUSYBOX), None)
    return None

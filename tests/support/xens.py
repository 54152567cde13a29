# SPDX-License-Identifier: MIT
"""Which hypervisors do the tests run, and where are they? Xen with PV32, in the cache of kernels.

A cache holds NAME/{config,version,xen}. What is found there counts if its configuration has the
options of the recipe and its version is of the line of releases that Debian 12 has.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.support.kernels import caches

FRAGMENTS = Path(__file__).parents[1] / "xen"
LINE = "4.17."
"""The releases that the tests are written for: where domain 0 lies is Xen's own affair."""

_OPTION = re.compile(r"CONFIG_\w+=.*|# CONFIG_\w+ is not set")


@dataclass(frozen=True, slots=True)
class XenRecipe:
    """A hypervisor that tests ask for by name."""

    name: str
    fragments: tuple[str, ...]
    """Files of tests/xen, without `.config`."""

    def fragment(self) -> str:
        """The lines that are appended to Xen's default configuration."""
        return "".join((FRAGMENTS / f"{name}.config").read_text() for name in self.fragments)

    def options(self) -> frozenset[str]:
        """The lines that a configuration must hold; an option that it does not have is off."""
        return frozenset(line for line in self.fragment().splitlines() if _OPTION.fullmatch(line))


RECIPES = {
    recipe.name: recipe
    for recipe in (
        XenRecipe("xen-release", ("common", "release")),
        XenRecipe("xen-debug", ("common", "debug")),
    )
}


@dataclass(frozen=True, slots=True)
class Xen:
    """One hypervisor of a cache."""

    directory: Path

    @property
    def binary(self) -> Path:
        """The ELF file that QEMU's -kernel takes."""
        return self.directory / "xen"

    @property
    def version(self) -> str:
        """Of the source package."""
        return (self.directory / "version").read_text().strip()

    def follows(self, recipe: XenRecipe) -> bool:
        """Whether it is complete, of the right line of releases and configured as `recipe` says."""
        names = ("config", "version", "xen")
        if not all((self.directory / name).is_file() for name in names):
            return False
        config = (self.directory / "config").read_text()
        return self.version.startswith(LINE) and all(
            line in config or (line.startswith("#") and f"{line.split()[1]}=" not in config)
            for line in recipe.options()
        )


def find(name: str) -> Xen | None:
    """The hypervisor `name` of the first cache that has it as its recipe says, or None."""
    candidates = (Xen(cache / name) for cache in caches())
    return next((xen for xen in candidates if xen.follows(RECIPES[name])), None)

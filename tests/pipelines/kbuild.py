# SPDX-License-Identifier: MIT
"""How is the recipe examples/pipelines/kbuild executed? On Debian's sources, small kernels."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.corpus import fetch, places, table
from tests.pipelines.chroot import logged
from tests.pipelines.wheels import ROOT

RECIPE = ROOT / "examples" / "pipelines" / "kbuild"
CHANGED = ("arch/x86/boot/Makefile", "scripts/Makefile.modinst")
COMMAND = Path(sys.executable).with_name("vmipatch")
HOOKED = ("VMIPATCH=1", f"VMIPATCH_COMMAND={COMMAND}")
IMAGE = "arch/x86/boot/bzImage"


def recipe_of(name: str) -> table.Build:
    """The recipe of the corpus's kernel `name`."""
    (row,) = (row for row in table.ROWS if row.name == name)
    assert isinstance(row.origin, table.Build)
    return row.origin


def hooked_tree(source: table.SourcePackage, place: Path, log: Path) -> Path:
    """Sources with the hook; all files but those that it changes are shared with the cache."""
    cache = places.default_cache()
    cache.mkdir(parents=True, exist_ok=True)
    tree = fetch.source_tree(source, cache)
    logged(["cp", "-al", str(tree), str(place)], log)
    for name in CHANGED:
        (place / name).unlink()
        shutil.copy(tree / name, place / name)
    for _ in range(2):
        logged([str(RECIPE / "install-hook"), str(place)], log)
    return place


@dataclass(frozen=True, slots=True)
class Builder:
    """A kernel tree with the hook, and a directory to build in."""

    tree: Path
    objects: Path
    log: Path

    @classmethod
    def of(cls, name: str, fragment: str, scratch: Path, log: Path) -> Builder:
        """A configured build of the sources of the corpus's kernel `name`."""
        recipe = recipe_of(name)
        place = scratch / name
        place.mkdir()
        builder = cls(hooked_tree(recipe.source, place / "linux", log), place / "objects", log)
        builder.objects.mkdir()
        config = place / "fragment"
        config.write_text(f"{fetch.fragment_text(recipe)}\n{fragment}")
        builder.make("allnoconfig", f"KCONFIG_ALLCONFIG={config}", "--silent")
        lines = builder.file(".config").read_text().splitlines()
        wanted = (line for line in fragment.splitlines() if line and line[0] != "#")
        assert set(wanted) <= set(lines), "the kernel knows these options"
        return builder

    def make(self, *arguments: str) -> str:
        """The output of `make` in the tree."""
        kernel = ["make", "-C", str(self.tree), f"O={self.objects}", "ARCH=i386"]
        return logged([*kernel, f"-j{os.cpu_count()}", *arguments], self.log)

    def file(self, name: str) -> Path:
        return self.objects / name

    def image(self) -> Path:
        """The bzImage that `make bzImage` with the hook leaves."""
        self.make("bzImage", "--silent", *HOOKED)
        return self.file(IMAGE)

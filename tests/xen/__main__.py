# SPDX-License-Identifier: MIT
"""Which Xen is missing? `python -m tests.xen` fetches Debian's source and builds just those."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support import xens
from tests.support.kernels import default_cache

SCRIPTS = Path(__file__).parent
ROOT = SCRIPTS.parents[1]
PROGRAMS = (
    "gcc:gcc libc6-dev", "make:make", "flex:flex", "bison:bison", "python3:python3",
    "dpkg-source:dpkg-dev", "xz:xz-utils",
)  # fmt: skip


def main() -> None:
    """Build what no cache has, into the default cache."""
    parser = argparse.ArgumentParser(prog="python -m tests.xen", description=__doc__)
    parser.add_argument("names", metavar="NAME", nargs="*", help=", ".join(xens.RECIPES))
    names = parser.parse_args().names or list(xens.RECIPES)
    if unknown := set(names) - set(xens.RECIPES):
        parser.error(f"no such hypervisor: {', '.join(sorted(unknown))}")
    missing = []
    for name in names:
        if found := xens.find(name):
            print(f"{name}: {found.directory}")
        else:
            missing.append(xens.RECIPES[name])
    if missing:
        subprocess.run([ROOT / "tools" / "need-programs.sh", *PROGRAMS], check=True)
        cache = default_cache()
        cache.mkdir(parents=True, exist_ok=True)
        _build(missing, cache)


def _build(recipes: list[xens.XenRecipe], cache: Path) -> None:
    """Build hypervisors of one source, each appearing in the cache when complete."""
    with tempfile.TemporaryDirectory(dir=cache, prefix=".build-") as directory:
        scratch = Path(directory)
        print("xen: fetching the source, 5 MB", flush=True)
        subprocess.run([SCRIPTS / "source.sh", scratch], check=True)
        for recipe in recipes:
            print(f"{recipe.name}: building", flush=True)
            out = scratch / recipe.name
            out.mkdir()
            fragment = scratch / f"{recipe.name}.fragment"
            fragment.write_text(recipe.fragment())
            source = scratch / "xen"
            subprocess.run([SCRIPTS / "build.sh", source, fragment, out], check=True)
            shutil.copy(scratch / "version", out / "version")
            place = cache / recipe.name
            shutil.rmtree(place, ignore_errors=True)
            out.rename(place)
            print(f"{recipe.name}: {place}", flush=True)


if __name__ == "__main__":
    main()

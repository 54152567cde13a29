# SPDX-License-Identifier: MIT
"""Which test kernels are missing? `python -m tests.kernels [NAME...]` builds just those."""

from __future__ import annotations

import argparse
import gzip
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support import initramfs, kernels

SCRIPTS = Path(__file__).parent


def main() -> None:
    """Build what no cache has, into the default cache."""
    parser = argparse.ArgumentParser(prog="python -m tests.kernels", description=__doc__)
    parser.add_argument("names", metavar="NAME", nargs="*", help=", ".join(kernels.RECIPES))
    names = parser.parse_args().names or list(kernels.RECIPES)
    if unknown := set(names) - set(kernels.RECIPES):
        parser.error(f"no such kernel: {', '.join(sorted(unknown))}")

    missing = []
    for name in names:
        if built := kernels.find(name):
            print(f"{name}: {built.directory}")
        else:
            missing.append(kernels.RECIPES[name])
    if missing or kernels.find_busybox() is None:
        _build(missing, kernels.default_cache())


def _build(recipes: list[kernels.Recipe], cache: Path) -> None:
    """Build kernels and the initial file system, each appearing in the cache when complete."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".build-") as directory:
        scratch = Path(directory)
        subprocess.run([SCRIPTS / "prepare.sh", scratch], check=True)
        _install_initramfs((scratch / "busybox").read_bytes(), scratch, cache)
        for recipe in recipes:
            print(f"{recipe.name}: building", flush=True)
            _install_kernel(recipe, scratch, cache)
            print(f"{recipe.name}: {cache / recipe.name}", flush=True)


def _install_kernel(recipe: kernels.Recipe, scratch: Path, cache: Path) -> None:
    fragment = scratch / f"{recipe.name}.fragment"
    fragment.write_text(recipe.fragment())
    out = scratch / recipe.name
    out.mkdir()
    subprocess.run([SCRIPTS / "build.sh", scratch / "linux", fragment, out], check=True)
    shutil.rmtree(cache / recipe.name, ignore_errors=True)
    out.rename(cache / recipe.name)


def _install_initramfs(busybox: bytes, scratch: Path, cache: Path) -> None:
    archive = initramfs.build(busybox, "workload.sh")
    complete = scratch / kernels.INITRAMFS_NAME
    complete.write_bytes(gzip.compress(archive, mtime=0))
    complete.rename(cache / kernels.INITRAMFS_NAME)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: MIT
"""Which test kernels are missing? `python -m tests.kernels [NAME...]` gets just those.

Without names: those that are built for the tests. Debian's own are fetched when they are named.
"""

from __future__ import annotations

import argparse
import gzip
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support import initramfs, kernels

SCRIPTS = Path(__file__).parent


def main() -> None:
    """Build or fetch what no cache has, into the default cache."""
    parser = argparse.ArgumentParser(prog="python -m tests.kernels", description=__doc__)
    known = [*kernels.RECIPES, *kernels.ON_REQUEST, *kernels.DISTRO_FLAVOURS, kernels.FOREIGN]
    parser.add_argument("names", metavar="NAME", nargs="*", help=", ".join(known))
    names = parser.parse_args().names or list(kernels.RECIPES)
    if unknown := set(names) - set(known):
        parser.error(f"no such kernel: {', '.join(sorted(unknown))}")

    recipes, packages = [], []
    wants_foreign = kernels.FOREIGN in names
    for name in (each for each in names if each != kernels.FOREIGN):
        distro = name in kernels.DISTRO_FLAVOURS
        if found := kernels.find_distro(name) if distro else kernels.find(name):
            print(f"{name}: {found.directory}")
        elif distro:
            packages.append(name)
        else:
            recipes.append(kernels.recipe(name))
    cache = kernels.default_cache()
    cache.mkdir(parents=True, exist_ok=True)
    if recipes or kernels.find_busybox() is None:
        _build(recipes, cache)
    if packages:
        _fetch(packages, cache)
    if wants_foreign and not all(map(kernels.find_foreign, kernels.FOREIGN_KERNELS)):
        _fetch_foreign(cache)


def _build(recipes: list[kernels.Recipe], cache: Path) -> None:
    """Build kernels and the initial file system, each appearing in the cache when complete."""
    with tempfile.TemporaryDirectory(dir=cache, prefix=".build-") as directory:
        scratch = Path(directory)
        subprocess.run([SCRIPTS / "prepare.sh", scratch], check=True)
        _install_initramfs((scratch / "busybox").read_bytes(), scratch, cache)
        for recipe in recipes:
            print(f"{recipe.name}: building", flush=True)
            _build_kernel(recipe, scratch, cache)
            print(f"{recipe.name}: {cache / recipe.name}", flush=True)


def _fetch(names: list[str], cache: Path) -> None:
    """Get Debian's own kernels, each appearing in the cache when complete."""
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as directory:
        scratch = Path(directory)
        for name in names:
            flavour = kernels.DISTRO_FLAVOURS[name]
            print(f"{name}: fetching, 810 MB", flush=True)
            subprocess.run([SCRIPTS / "debian.sh", scratch, flavour], check=True)
            _install(scratch / f"debian-{flavour}", cache / name)
            print(f"{name}: {cache / name}", flush=True)


def _fetch_foreign(cache: Path) -> None:
    """Get what of Debian is not Linux, appearing in the cache when complete."""
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as directory:
        print(f"{kernels.FOREIGN}: fetching, 9 MB", flush=True)
        subprocess.run([SCRIPTS / "foreign.sh", directory], check=True)
        _install(Path(directory) / kernels.FOREIGN, cache / kernels.FOREIGN)
        print(f"{kernels.FOREIGN}: {cache / kernels.FOREIGN}", flush=True)


def _build_kernel(recipe: kernels.Recipe, scratch: Path, cache: Path) -> None:
    fragment = scratch / f"{recipe.name}.fragment"
    fragment.write_text(recipe.fragment())
    out = scratch / recipe.name
    out.mkdir()
    command = [SCRIPTS / "build.sh", scratch / "linux", fragment, out]
    wanted = {"COMPRESSIONS": " ".join(recipe.compressions), "MODULES_ONLY": recipe.of_kernel}
    environment = os.environ | wanted
    subprocess.run(command, check=True, env=environment)
    _install(out, cache / recipe.name)


def _install(complete: Path, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    complete.rename(place)


def _install_initramfs(busybox: bytes, scratch: Path, cache: Path) -> None:
    archive = initramfs.build(busybox, "workload.sh")
    complete = scratch / kernels.INITRAMFS_NAME
    complete.write_bytes(gzip.compress(archive, mtime=0))
    complete.rename(cache / kernels.INITRAMFS_NAME)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: MIT
"""How does a kernel of the corpus come into the cache? Fetched or built, complete or not at all."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.corpus.places import CorpusKernel
from tests.corpus.table import Build, Compiler, CorpusRow, DebianPackage, OwnKernel, SourcePackage
from tests.support import kernels

HERE = Path(__file__).parent
CONFIGS = HERE / "configs"
BUILD_SCRIPT = kernels.FRAGMENTS / "build.sh"
KEPT = "vmlinux.unstripped arch/x86/boot/compressed/vmlinux.relocs"
"""Files of a build that hold relocations which its vmlinux no longer has (6.12 on)."""

_OPTION = re.compile(r"^(?:CONFIG_(\w+)=.*|# CONFIG_(\w+) is not set)$", re.M)


class NotAvailable(Exception):
    """A kernel that can be neither fetched nor built here; the message says what is missing."""


def find(row: CorpusRow, cache: Path) -> CorpusKernel | None:
    """The kernel of a row if the cache has it, as its recipe says."""
    if isinstance(row.origin, OwnKernel):
        built = kernels.find(row.origin.name)
        return CorpusKernel.in_directory(row.name, built.directory) if built else None
    kernel = CorpusKernel.in_directory(row.name, cache / row.name)
    if isinstance(row.origin, DebianPackage):
        whole = kernel.packed and kernel.modules and (kernel.linked or not row.origin.debug)
        return kernel if whole else None
    whole = kernel.packed and kernel.linked and _follows(kernel, row.origin)
    return kernel if whole else None


def get(row: CorpusRow, cache: Path, jobs: int) -> CorpusKernel:
    """The kernel of a row, fetched or built if the cache lacks it. Raises NotAvailable."""
    if found := find(row, cache):
        return found
    if isinstance(row.origin, OwnKernel):
        raise NotAvailable(f"the test kernel {row.origin.name} is missing: run `make kernels`")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=f".{row.name}-") as directory:
        scratch, out = Path(directory), Path(directory) / "out"
        if isinstance(row.origin, DebianPackage):
            fetch(row.origin, scratch, out)
        else:
            _check_tools(row.origin.compiler)
            out.mkdir()
            build(row.origin, source_tree(row.origin.source, cache), scratch, out, jobs)
        shutil.rmtree(cache / row.name, ignore_errors=True)
        out.rename(cache / row.name)
    found = find(row, cache)
    if found is None:
        raise NotAvailable(f"{row.name} is not what its row says, though it was just made")
    return found


def fetch(package: DebianPackage, scratch: Path, out: Path) -> None:
    """Unpack Debian's packages. Raises NotAvailable."""
    debug = "debug" if package.debug else ""
    pinned = (package.suite, package.image, package.version)
    _script("package.sh", scratch, *pinned, debug, out)


def source_tree(source: SourcePackage, cache: Path) -> Path:
    """The unpacked sources, kept in the cache for the next build. Raises NotAvailable."""
    tree = cache / "sources" / f"{source.package}_{source.version}"
    if not tree.is_dir():
        tree.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".source-") as directory:
            pinned = (source.suite, source.package, source.version)
            _script("source.sh", Path(directory), *pinned, tree)
    return tree


def build(recipe: Build, tree: Path, scratch: Path, out: Path, jobs: int) -> None:
    """Compile a kernel into the directory `out`. Raises NotAvailable."""
    fragment = scratch / "fragment"
    fragment.write_text(fragment_text(recipe))
    wanted = {"WHERE_KNOWN": "1", "KEEP": KEPT, "JOBS": str(jobs)}
    wanted["MAKE_ARGUMENTS"] = recipe.compiler.make_arguments
    _run([BUILD_SCRIPT, tree, fragment, out], os.environ | wanted)


def fragment_text(recipe: Build) -> str:
    """The whole configuration fragment."""
    return "\n".join((CONFIGS / f"{name}.config").read_text() for name in recipe.fragments)


def _follows(kernel: CorpusKernel, recipe: Build) -> bool:
    """Whether a configuration has every option of the recipe that its version knows.

    A version that does not know an option has no line of it, neither set nor unset; an option
    that it knows and that other options hide has none either, but build.sh refuses to build that.
    """
    lines = set(kernel.config.splitlines())
    named = {one or two for one, two in _OPTION.findall(kernel.config)}
    wanted = _OPTION.finditer(fragment_text(recipe))
    return all(line[0] in lines for line in wanted if (line[1] or line[2]) in named)


def _check_tools(compiler: Compiler) -> None:
    programs = [*compiler.packages, "flex", "bison", "bc", "make"]
    names = {"lld": "ld.lld", "llvm": "llvm-nm"}
    for package in programs:
        stem, _, number = package.partition("-")
        program = names.get(stem, stem) + (f"-{number}" if number else "")
        if shutil.which(program) is None:
            raise NotAvailable(f"{program} is missing: install {' '.join(programs)}")


def _script(name: str, *arguments: str | Path) -> None:
    _run([HERE / name, *arguments], dict(os.environ))


def _run(command: list[str | Path], environment: dict[str, str]) -> None:
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, errors="replace"
    )
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-3:])
        raise NotAvailable(f"{Path(command[0]).name} failed: {last}")

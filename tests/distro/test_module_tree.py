# SPDX-License-Identifier: MIT
"""Does a tree of a distribution's modules become the same each time, hold, and come back?

Every sixteenth of Debian's modules; all of them are in `make bench`.
"""

from __future__ import annotations

import lzma
import shutil
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tests.cli.commands import invoke, validated
from tests.cli.judge import check_command
from tests.distro.conftest import DistroFinder
from tests.support.damage import Damage, damages
from vmipatch.errors import ExitCode
from vmipatch.image.elf import ElfImage
from vmipatch.image.packed import pack, packing_of, usual
from vmipatch.image.packing.compression import Compression
from vmipatch.verify.static.module import check_module

pytestmark = pytest.mark.distro

STEP = 16
PACKED = {Compression.XZ: ".xz", Compression.GZIP: ".gz", Compression.ZSTD: ".zst"}


@pytest.fixture
def tree(distro: DistroFinder, name: str, tmp_path: Path) -> Path:
    """A sample of a kernel's modules, some of them packed."""
    source, tree = distro(name).modules, tmp_path / "tree"
    for number, path in enumerate(sorted(source.rglob("*.ko"))[::STEP]):
        place = tree / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
        if number % 5 < len(PACKED):
            packing = list(PACKED)[number % 5]
            place.with_name(place.name + PACKED[packing]).write_bytes(
                pack(place.read_bytes(), usual(packing))
            )
            place.unlink()
    return tree


def contents(tree: Path) -> dict[str, bytes]:
    return {str(p.relative_to(tree)): p.read_bytes() for p in tree.rglob("*") if p.is_file()}


def test_sample_is_the_same_twice_and_proven_and_comes_back(tree: Path, tmp_path: Path) -> None:
    one, two, back = (tmp_path / each for each in ("one", "two", "back"))
    for output, jobs in ((one, "2"), (two, "1")):
        done = invoke("rewrite", "--tree", tree, "-o", output, "--jobs", jobs)
        assert done.returncode == ExitCode.SUCCESS, done.stderr
    assert contents(one) == contents(two)
    proof = invoke("verify", "--tree", one, "--original", tree, "--json", "-")
    assert proof.returncode == ExitCode.SUCCESS, proof.stderr
    report = validated(proof.stdout, "tree-1")
    assert report["outcomes"] == {"proven": len(contents(tree))}
    assert report["sites"] > 500, "some have sites"
    done = invoke("restore", "--tree", one, "-o", back)
    assert done.returncode == ExitCode.SUCCESS, done.stderr
    assert contents(back) == contents(tree)
    packed = {packing_of(data) for name, data in contents(one).items() if name[-3:] != ".ko"}
    assert packed == set(PACKED)


@cache
def module(directory: Path, name: str) -> ElfImage:
    return ElfImage.parse(next(directory.rglob(f"{name}.ko")).read_bytes(), name)


@pytest.mark.parametrize("which", ["tun", "cpuid", "parport_pc", "aes_ti"])
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=damages)
def test_damaged_module_is_refused_or_what_comes_out_is_proven(
    distro: DistroFinder, which: str, damage: Damage
) -> None:
    data = damage.apply(module(distro("debian-686").modules, which))
    written = check_command(data, "rewrite")
    if written is not None:
        verdict = check_module(data, written)
        assert verdict.holds, [str(finding) for finding in verdict.findings]


def test_damaged_stream_is_one_error(distro: DistroFinder, tmp_path: Path) -> None:
    stream = lzma.compress(module(distro("debian-686").modules, "tun").data)
    assert check_command(stream[: len(stream) // 2], "rewrite") is None

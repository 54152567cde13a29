# SPDX-License-Identifier: MIT
"""Is the table of kernels whole, pinned, and what was promised?"""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.corpus.fetch import CONFIGS, fragment_text
from tests.corpus.table import ROWS, Build, CorpusRow, DebianPackage, InputMode, OwnKernel, modes
from tests.support import kernels

VERSION = re.compile(r"\d+\.\d+\.\d+-\d+(~bpo12\+1)?")
PROMISED = {
    ("bookworm", "686"),
    ("bookworm", "686-pae"),
    ("bookworm", "rt-686-pae"),
    ("bookworm-backports", "686"),
    ("bookworm-backports", "686-pae"),
    ("bullseye", "686"),
    ("bullseye", "686-pae"),
    ("bullseye", "rt-686-pae"),
}
BUILDS = {row.name: row.origin for row in ROWS if isinstance(row.origin, Build)}
PACKAGES = [row.origin for row in ROWS if isinstance(row.origin, DebianPackage)]


def flavour(package: DebianPackage) -> str:
    found = re.search(r"(rt-)?686(-pae)?$", package.image)
    assert found
    return found[0]


def test_no_name_stands_for_two_kernels() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_debian_s_flavours_are_all_there() -> None:
    assert {(package.suite, flavour(package)) for package in PACKAGES} == PROMISED


def test_modules_of_the_rt_and_of_the_5_10_flavour_are_taken_along() -> None:
    with_modules = {row.name for row in ROWS if InputMode.MODULES in modes(row)}
    assert with_modules == {"debian12-rt-686-pae", "debian11-686"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_version_is_pinned(row: CorpusRow) -> None:
    match row.origin:
        case DebianPackage(version=version):
            assert VERSION.fullmatch(version)
        case Build(source=source):
            assert VERSION.fullmatch(source.version)
        case OwnKernel(name=name):
            assert name in kernels.RECIPES


def test_every_compiler_builds_small_and_large_kernels() -> None:
    built = Counter(
        (build.compiler.name.split()[0], "tiny" in build.fragments) for build in BUILDS.values()
    )
    assert built.keys() == {(name, tiny) for name in ("gcc", "clang") for tiny in (True, False)}
    assert min(built.values()) >= 2


def test_hypervisors_are_built_into_three_kernels() -> None:
    packed = [build for build in BUILDS.values() if "hosts" in build.fragments]
    assert len(packed) == 3
    for build in packed:
        lines = fragment_text(build).splitlines()
        assert {"CONFIG_KVM=y", "CONFIG_XEN=y"} <= set(lines)


def test_every_fragment_is_there_and_used() -> None:
    there = {path.stem for path in CONFIGS.glob("*.config")}
    assert there == {name for build in BUILDS.values() for name in build.fragments}


@pytest.mark.parametrize("name", BUILDS)
def test_no_option_is_wanted_in_two_ways(name: str) -> None:
    lines = fragment_text(BUILDS[name]).splitlines()
    options = [re.findall(r"CONFIG_\w+", line)[0] for line in set(lines) if "CONFIG_" in line]
    assert len(options) == len(set(options))

# SPDX-License-Identifier: MIT
"""Is a cached kernel used exactly when it is what its recipe asks for?"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import kernels

TINY = kernels.RECIPES["tiny"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache that VMIPATCH_KERNELS names, and an empty default cache."""
    named = tmp_path / "named"
    monkeypatch.setenv(kernels.CACHE_VARIABLE, str(named))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return named


def fill(directory: Path, config: str) -> None:
    directory.mkdir(parents=True)
    for name in ("vmlinux", "bzImage", "System.map"):
        (directory / name).touch()
    (directory / "config").write_text(config)


def test_kernel_with_every_option_is_used(cache: Path) -> None:
    fill(cache / "tiny", f"CONFIG_OTHER=y\n{TINY.fragment()}")
    found = kernels.find("tiny")
    assert found is not None
    assert found.vmlinux == cache / "tiny" / "vmlinux"


def test_kernel_that_lacks_an_option_is_not_used(cache: Path) -> None:
    for number, option in enumerate(sorted(TINY.options())):
        config = "".join(f"{line}\n" for line in TINY.options() if line != option)
        directory = cache.with_name(f"lacking{number}") / "tiny"
        fill(directory, config)
        assert not kernels.BuiltKernel(directory).follows(TINY), option


@pytest.mark.parametrize("name", ["config", "vmlinux", "bzImage", "System.map"])
def test_incomplete_kernel_is_not_used(cache: Path, name: str) -> None:
    fill(cache / "tiny", TINY.fragment())
    (cache / "tiny" / name).unlink()
    assert kernels.find("tiny") is None


def test_default_cache_stands_in_for_what_the_named_one_lacks(cache: Path) -> None:
    fill(cache / "tiny", "CONFIG_OTHER=y\n")
    fill(kernels.default_cache() / "tiny", TINY.fragment())
    found = kernels.find("tiny")
    assert found is not None
    assert found.directory == kernels.default_cache() / "tiny"


def test_recipes_differ() -> None:
    options = [recipe.options() for recipe in kernels.RECIPES.values()]
    assert all(not a <= b for a in options for b in options if a is not b)


DISTRO_PARTS = ("config", "vmlinux", "vmlinuz", "System.map", "modules")


def fill_distro(directory: Path) -> None:
    (directory / "modules").mkdir(parents=True)
    for name in DISTRO_PARTS[:-1]:
        (directory / name).touch()


def test_kernel_of_the_distribution_is_used(cache: Path) -> None:
    fill_distro(cache / "debian-686-pae")
    found = kernels.find_distro("debian-686-pae")
    assert found is not None
    assert found.directory == cache / "debian-686-pae"


@pytest.mark.parametrize("part", DISTRO_PARTS)
def test_incomplete_kernel_of_the_distribution_is_not_used(cache: Path, part: str) -> None:
    fill_distro(cache / "debian-686")
    path = cache / "debian-686" / part
    path.rename(path.with_name("elsewhere"))
    assert kernels.find_distro("debian-686") is None

# SPDX-License-Identifier: MIT
"""Does a build get the options of its row, as far as its sources know them?"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.corpus import fetch
from tests.corpus.table import ROWS, Build, CorpusRow
from tests.support.kernels import FRAGMENTS

OLD_KCONFIG = "config SMP\n\tbool\nmenuconfig NET\n\tbool\nconfig HIDDEN\n\tbool\n"
MAKEFILE = 'allnoconfig:\n\t@grep -v HIDDEN "$(KCONFIG_ALLCONFIG)" > "$(O)/.config"\n'
"""Takes what it is given, but for one option that something forbids."""


def configured(directory: Path, fragment: str) -> subprocess.CompletedProcess[str]:
    """The result of build.sh for a fragment, of sources that know SMP, NET and HIDDEN."""
    source, out = directory / "source", directory / "out"
    for folder in (source / "init", source / "arch" / "arm", out):
        folder.mkdir(parents=True)
    (source / "Makefile").write_text(MAKEFILE)
    (source / "init" / "Kconfig").write_text(OLD_KCONFIG)
    (source / "arch" / "arm" / "Kconfig").write_text("config THUMB\n\tbool\n")
    (directory / "fragment").write_text(fragment)
    return subprocess.run(
        [FRAGMENTS / "build.sh", source, directory / "fragment", out],
        env=os.environ | {"WHERE_KNOWN": "1", "CONFIGURE_ONLY": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_options_that_the_sources_do_not_know_are_left_out(tmp_path: Path) -> None:
    done = configured(
        tmp_path, "CONFIG_SMP=y\n# CONFIG_NET is not set\nCONFIG_NEWER=y\nCONFIG_THUMB=y\n"
    )
    assert done.returncode == 0, done.stderr
    config = (tmp_path / "out" / "config").read_text()
    assert config == "CONFIG_SMP=y\n# CONFIG_NET is not set\n"


def test_option_that_is_known_and_not_given_ends_the_build(tmp_path: Path) -> None:
    done = configured(tmp_path, "CONFIG_SMP=y\nCONFIG_HIDDEN=y\n")
    assert done.returncode == 1
    assert "does not allow: CONFIG_HIDDEN=y" in done.stderr


@pytest.fixture
def build(tmp_path: Path) -> CorpusRow:
    """A build of the table, as if the cache had it."""
    row = next(each for each in ROWS if isinstance(each.origin, Build))
    assert isinstance(row.origin, Build)
    place = tmp_path / row.name
    place.mkdir()
    for name in ("bzImage", "vmlinux"):
        (place / name).write_bytes(name.encode())
    (place / "config").write_text(fetch.fragment_text(row.origin))
    return row


def test_build_with_the_options_of_its_row_is_found(tmp_path: Path, build: CorpusRow) -> None:
    kernel = fetch.find(build, tmp_path)
    assert kernel is not None
    assert kernel.packed == tmp_path / build.name / "bzImage"


def test_build_with_other_options_is_not_taken_for_the_row_s(
    tmp_path: Path, build: CorpusRow
) -> None:
    config = tmp_path / build.name / "config"
    config.write_text(config.read_text().replace("CONFIG_TTY=y", "# CONFIG_TTY is not set"))
    assert fetch.find(build, tmp_path) is None


def test_half_a_build_is_not_taken_for_a_whole_one(tmp_path: Path, build: CorpusRow) -> None:
    (tmp_path / build.name / "vmlinux").unlink()
    assert fetch.find(build, tmp_path) is None

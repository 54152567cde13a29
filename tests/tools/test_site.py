# SPDX-License-Identifier: MIT
"""Is docs a site without a broken link, and does the build tell of one?"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFIGURATION = ROOT / "tools" / "site"


def build(docs: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """Build a site as `make site` does."""
    options = ["-q", "-E", "-W", "--keep-going", "-n", "-c", CONFIGURATION]
    command = [sys.executable, "-m", "sphinx", *options, docs, target]
    return subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    done = build(ROOT / "docs", target)
    assert (done.returncode, done.stderr) == (0, "")
    return target


def test_each_page_of_docs_is_a_page_of_the_site(site: Path) -> None:
    pages = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    assert {page for page in pages if not (site / page).with_suffix(".html").exists()} == set()


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|img|link|source|iframe)[^>]*(?:src|href)="([^"]*)"',
            path.read_text("utf-8"),
        )
        assert [
            address for address in loaded if address.startswith(("http:", "https:", "//"))
        ] == []
    for path in site.rglob("*.css"):
        assert re.findall(r"url\([\"']?(?:https?:)?//", path.read_text("utf-8")) == []


def test_pictures_are_on_the_site(site: Path) -> None:
    names = {path.name for path in (ROOT / "docs" / "pictures").glob("*.svg")}
    assert names <= {path.name for path in (site / "_images").iterdir()}


def test_each_link_to_something_that_is_not_there_is_told(tmp_path: Path) -> None:
    wrong = ["[page](other.md)", "[anchor](#nowhere)", "[part](index.md#no)", "![](none.svg)"]
    lines = ["# Page", "[part](#page)", *wrong]
    (tmp_path / "index.md").write_text("\n\n".join(lines) + "\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    assert all(target in done.stderr for target in ("other.md", "nowhere", "'no'", "none.svg"))
    assert done.stderr.count("WARNING") == len(wrong), done.stderr

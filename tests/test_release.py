# SPDX-License-Identifier: MIT
"""Does what a release says of itself agree: version, changelog, metadata, links between pages?"""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

from vmipatch import __version__

ROOT = Path(__file__).parents[1]
INSTALL = re.compile(r"\bpip install '?\"?([^\s`#|),'\"]+)")
PLACEHOLDERS = ("{package}", "$VMIPATCH", "…")
"""Names that a message or a workflow fills in."""
TEXTS = ("README.md", "CONTRIBUTING.md", "docs", "examples", "vmipatch")
LINK = re.compile(r"\]\(([^)#:]+)(?:#([^)]*))?\)")
KINDS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
"""Of changes, as Keep a Changelog has them."""


def test_changelog_has_this_version_with_its_day_and_known_kinds_of_changes() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    versions = re.findall(r"(?m)^## \[(.+)\](?: - (\d{4}-\d\d-\d\d))?$", text)
    assert versions[0] == ("Unreleased", "")
    assert versions[1][0] == __version__ and versions[1][1]
    assert set(re.findall(r"(?m)^### (.+)$", text)) <= set(KINDS)


def test_metadata_names_the_pages_that_a_packager_looks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    urls = project["urls"]
    assert {"Homepage", "Documentation", "Source", "Issues", "Changelog", "Security"} <= set(urls)
    for name in ("Changelog", "Security"):
        assert (ROOT / urls[name].rsplit("/", 1)[-1]).exists()
    assert project["classifiers"] == sorted(project["classifiers"], key=classifier_key)


def classifier_key(text: str) -> tuple[str, str]:
    group, _, rest = text.partition(" :: ")
    return group, rest


def anchors_of(page: Path) -> set[str]:
    """Names that a web host of sources gives to the headings of a page."""
    lines = re.sub(r"(?s)```.*?```", "", page.read_text("utf-8")).splitlines()
    heads = [re.sub(r"^#+ ", "", line) for line in lines if re.match(r"#+ ", line)]
    return {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads}


def test_every_link_of_a_page_outside_of_docs_has_its_target() -> None:
    """Those of docs are looked at when the site is built (tests/tools/test_site.py)."""
    listed = subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    pages = [ROOT / name for name in listed if not name.startswith("docs/")]
    wrong = []
    for page in pages:
        for path, anchor in LINK.findall(page.read_text("utf-8")):
            target = page.parent / path
            if not target.exists() or (anchor and anchor not in anchors_of(target)):
                wrong.append(f"{page.relative_to(ROOT)}: {path}#{anchor}")
    assert len(pages) >= 4
    assert wrong == []


def test_nobody_is_told_to_install_a_name_that_the_index_does_not_have() -> None:
    """It has what this project depends on; the project itself is a directory or a wheel."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    lines = [*project["dependencies"], *(line for extra in extras for line in extra)]
    known = {re.split(r"[^\w-]", line)[0] for line in lines} - {project["name"]}
    told = {
        found[1]
        for name in TEXTS
        for path in (ROOT / name, *(ROOT / name).rglob("*"))
        if path.suffix in (".md", ".py", ".yml") and path.is_file()
        for found in INSTALL.finditer(path.read_text("utf-8"))
    }
    assert {"unicorn==2.1.4", ".[zstd]"} <= told, "they are found"
    names = {re.split(r"[=<>;]", word)[0] for word in told if not word.startswith(".")}
    assert names - set(PLACEHOLDERS) <= known

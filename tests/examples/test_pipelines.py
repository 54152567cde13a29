# SPDX-License-Identifier: MIT
"""Are the recipes of examples/pipelines well-formed, and do they name options that exist?

Whether they work is the question of tests/pipelines (make test-pipelines).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from vmipatch.cli.main import cli

ROOT = Path(__file__).parents[2]
CONTEXT = click.Context(cli)
COMMANDS = cli.list_commands(CONTEXT)
RECIPES = ROOT / "examples" / "pipelines"
README_LINES = 20
"""Ten of text, and what stands between them."""
CALL = re.compile(r'(?:\bvmipatch|VMIPATCH\)|\$vmipatch")[ \t]+([a-z-]+)([^;|&#`\n]*)')
"""A command of vmipatch and its arguments."""
OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")


def files() -> list[Path]:
    return sorted(path for path in RECIPES.rglob("*") if path.is_file())


def scripts() -> list[Path]:
    return [path for path in files() if path.read_text().startswith(("#!/bin/sh", "#!/bin/bash"))]


def calls(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each command of vmipatch in a text with its options."""
    for match in CALL.finditer(re.sub(r"\\\n", " ", text)):
        if match[1] in COMMANDS:
            yield match[1], OPTION.findall(match[2])


def options(command: str) -> set[str]:
    """The options of a command."""
    found = cli.get_command(CONTEXT, command)
    assert found is not None
    return {name for each in found.params if isinstance(each, click.Option) for name in each.opts}


def test_calls_are_found() -> None:
    text = "x && $(VMIPATCH) rewrite a -o b \\\n\t--json c || vmipatch verify --static a"
    assert list(calls(text)) == [("rewrite", ["-o", "--json"]), ("verify", ["--static"])]


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(RECIPES)))
def test_commands_have_the_options_that_a_recipe_gives_them(path: Path) -> None:
    for command, given in calls(path.read_text()):
        assert set(given) <= options(command), f"{command} {given}"


@pytest.mark.parametrize("path", scripts(), ids=lambda path: str(path.relative_to(RECIPES)))
def test_script_is_one(path: Path) -> None:
    shell = path.read_text().splitlines()[0].removeprefix("#!")
    subprocess.run([shell, "-n", path], check=True)
    if shellcheck := shutil.which("shellcheck"):
        done = subprocess.run([shellcheck, path], capture_output=True, text=True, check=False)
        assert not done.stdout


@pytest.mark.parametrize(
    "recipe",
    sorted(path for path in RECIPES.iterdir() if path.is_dir()),
    ids=lambda path: path.name,
)
def test_recipe_has_a_short_readme_that_names_its_test(recipe: Path) -> None:
    readme = (recipe / "README.md").read_text()
    assert len(readme.splitlines()) <= README_LINES
    (test,) = re.findall(r"Test: ([\w/]+\.py)\.", readme)
    assert (ROOT / test).is_file()
    assert f"]({recipe.name}/README.md)" in (RECIPES / "README.md").read_text()


def test_links_of_pages_are_there() -> None:
    for page in RECIPES.rglob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"


HOOKS = ("preinst", "postinst", "prerm", "postrm")
DEBIAN_RELEASE = "5.10.0-44-rt-686-pae"


@pytest.fixture
def debian(tmp_path: Path) -> Path:
    """The directory debian/ of the source package, configured for a kernel."""
    shutil.copytree(RECIPES / "debian", tmp_path / "source")
    directory = tmp_path / "source" / "debian"
    subprocess.run([directory / "configure", DEBIAN_RELEASE, "5.10.257-1"], check=True)
    return directory


def planned(debian: Path, profiles: str = "") -> str:
    """The commands that the build would execute."""
    done = subprocess.run(
        ["make", "-n", "-f", "debian/rules", "override_dh_auto_build"],
        cwd=debian.parent,
        env=os.environ | {"DEB_BUILD_PROFILES": profiles},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_debian_package_can_be_configured_for_any_kernel(debian: Path) -> None:
    image = f"linux-image-{DEBIAN_RELEASE}-vmi"
    for name in ("control", "changelog", "release.mk", *(f"{image}.{hook}" for hook in HOOKS)):
        text = (debian / name).read_text()
        assert not re.search(r"@[A-Z]+@", text), name
        assert DEBIAN_RELEASE in text, name
    for hook in HOOKS:
        subprocess.run(["sh", "-n", debian / f"{image}.{hook}"], check=True)
    assert f"vmipatch rewrite /boot/vmlinuz-{DEBIAN_RELEASE} --debug" in planned(debian)


def test_debian_package_is_signed_after_it_is_rewritten_and_before_it_is_proven(
    debian: Path,
) -> None:
    plan = planned(debian, "pkg.linux-vmi.sign")
    wanted = ("rewrite /boot", "sbsign", "rewrite --tree", "-exec", "verify ", "verify --tree")
    found = [plan.index(words) for words in wanted]
    assert found == sorted(found)
    assert "sbsign" not in planned(debian)

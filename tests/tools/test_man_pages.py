# SPDX-License-Identifier: MIT
"""Are man pages and the site's page of commands those of click's commands, and in the wheel?"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import click
import pytest

from tests.cli.commands import COMMAND, ENVIRONMENT
from tools.man_pages import DOCS, files, pages, roff
from vmipatch.cli.main import cli
from vmipatch.verify.static.rules import RULES


def test_pages_are_those_of_the_commands() -> None:
    made = files()
    assert {path.name for path in (DOCS / "man").iterdir()} == {
        path.name for path in made if path.suffix == ".1"
    }
    stale = [path.name for path, text in made.items() if path.read_text("utf-8") != text]
    assert stale == [], "write them: python -m tools.man_pages"


def test_each_option_of_each_command_is_on_its_page() -> None:
    context = click.Context(cli)
    for page in list(pages())[1:]:
        command = cli.get_command(context, page.name.removeprefix("vmipatch-"))
        assert command is not None
        names = {name for each in command.params for name in each.opts if name.startswith("-")}
        shown = " ".join(name for name, _ in page.options)
        assert {name for name in names if name not in re.split(r"[ ,/]+", shown)} == set()
        assert page.example, page.name


def test_text_is_not_taken_for_a_request_of_roff() -> None:
    assert roff(".text\n'x \\ -o") == "\\&.text\n\\&'x \\e \\-o"


def completed(words: str, number: int) -> list[str]:
    """The answers to a shell that completes word `number` of a line."""
    asked = {"_VMIPATCH_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(number)}
    done = subprocess.run(
        COMMAND, env={**ENVIRONMENT, **asked}, capture_output=True, text=True, check=True
    )
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_a_shell_completes_numbers_of_rules() -> None:
    numbers = [rule.number for rule in RULES]
    assert completed("vmipatch explain ", 2) == numbers
    assert completed("vmipatch explain vp10", 2) == [n for n in numbers if n.startswith("VP10")]


def test_a_shell_completes_commands_and_options() -> None:
    assert completed("vmipatch re", 1) == ["restore", "rewrite"]
    assert "--original" in completed("vmipatch verify --o", 2)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, without the ROM for Xen: no compiler is found."""
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
    environment = {**os.environ, "PATH": str(Path(sys.executable).parent)}
    subprocess.run(command, cwd=DOCS.parent, env=environment, check=True, capture_output=True)
    return zipfile.ZipFile(next(target.glob("*.whl")))


def test_man_pages_are_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    parts = {name for name in wheel.namelist() if "/share/man/man1/" in name}
    assert {Path(name).name for name in parts} == {f"{page.name}.1" for page in pages()}

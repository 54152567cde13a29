# SPDX-License-Identifier: MIT
"""Is each option of each command served for a kind of file, or refused by name? From the table."""

from __future__ import annotations

import os
from pathlib import Path

import click
import pytest

from tests.cli.commands import Done, invoke
from tests.files.samples import contents, one_of_each
from vmipatch.choices import Extent, Mode
from vmipatch.cli.main import cli
from vmipatch.cli.served import COMMON, EXTENTS, KINDS, long_name
from vmipatch.errors import ExitCode, VmipatchError
from vmipatch.files.kernel import KernelFile
from vmipatch.files.kind import ANY, KERNELS, Kind
from vmipatch.files.module import ModuleFile
from vmipatch.files.tree import ModuleTree

NEEDED = {name: ["-o", "OUT"] for name in ("rewrite", "restore", "wrap", "xen-image")}
"""Arguments that a command requires."""
VALUES = {
    "--output": ["OUT"], "--pad": ["nop"], "--debug": ["VMLINUX"], "--boot-code": ["keep"],
    "--vmlinux": ["PAPER"], "--system-map": ["PAPER"], "--address-map": ["PAPER"],
    "--jobs": ["2"], "--json": ["PAPER"], "--initrd": ["VMLINUX"], "--append": ["quiet"],
    "--states": ["3"], "--require-coverage": ["1"], "--limit": ["1"], "--certificate": ["PAPER"],
    "--certificate-format": ["json"],
    "--timeout": ["9"],
    "--sarif": ["PAPER"], "--report": ["PAPER"], "--rom": ["VMLINUX"], "--memory": ["8"],
    "--trace": ["PAPER"], "--original": ["SAME"], "--vary": ["2"], "--cpus": ["2"],
    "--turn": ["1000"], "--races": ["1"], "--xen": ["VMLINUX"], "--bundle": ["PAPER"],
    "--domain-memory": ["64"], "--start": ["main"], "--keep": ["a..b"],
    "--base": ["0x1000"], "--module": ["VMLINUX"], "--disk": ["VMLINUX"],
}  # fmt: skip
"""A value for each option that takes one; flags have none."""
JOBS = ("scan", "rewrite", "verify", "restore", "doctor", "run", "wrap", "xen_image")

ROWS = [
    (command, option, kind)
    for command in KINDS
    for option in KINDS[command]
    for kind in Kind
    if kind is not Kind.FLAT or command == "scan"
]
"""A flat binary is one by `scan --base` alone: to every other command it is a damaged file."""


class Reached(VmipatchError):
    """The command has come to its job."""


@pytest.fixture(scope="module")
def files(guest: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Kind, Path]:
    directory = tmp_path_factory.mktemp("kinds")
    flat = directory / "flat"
    flat.write_bytes(bytes.fromhex("fa f4 c3"))
    return one_of_each(directory, guest) | {Kind.FLAT: flat}


def _arguments(command: str, option: str, kind: Kind, files: dict[Kind, Path]) -> list[str]:
    """A command line with this one option, and what the command needs besides."""
    words = [option, *VALUES.get(option, [])]
    if command == "verify":
        alone = option in ("--original", "--sites", "--states")
        compares = ("--static", "--lockstep", "--debug", "--vary")
        needs_original = option in compares or kind not in KERNELS
        words += ["--original", "SAME"] if needs_original and not alone else []
        words += ["--sites"] if option == "--states" else []
    if command == "run" and option not in ("--native", "--trap", "--paravirt", "--audit"):
        words += ["--audit" if option == "--rom" else "--native"]
    if kind is Kind.FLAT and option != "--base":
        words += ["--base", "0x1000"]
    if option == "--turn" or (option == "--races" and kind in KERNELS):
        words += ["--cpus", "2"]
    if option == "--names":
        words += ["--bundle", "PAPER"]
    if option != "--output":
        words += NEEDED.get(command, [])
    return words


def _run(command: str, words: list[str], kind: Kind, files: dict[Kind, Path], out: Path) -> Done:
    places = {
        "OUT": out / "out", "PAPER": out / "paper", "VMLINUX": files[Kind.VMLINUX],
        "SAME": files[kind],
    }  # fmt: skip
    if "--initrd" in words or "--debug" in words or "--rom" in words:
        places["VMLINUX"] = out / "other"
        places["VMLINUX"].write_bytes(files[Kind.VMLINUX].read_bytes())
    return invoke(command, files[kind], *(str(places.get(word, word)) for word in words))


def test_table_has_every_option_of_every_command_that_takes_a_file() -> None:
    taking = set()
    for name in cli.commands:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        if not any(p.name == "kernel" for p in command.params):
            continue
        taking.add(name)
        options = {long_name(p) for p in command.params if isinstance(p, click.Option)}
        assert options - COMMON == set(KINDS[name]), name
    assert taking == set(KINDS)


@pytest.mark.parametrize(
    ("command", "option", "kind"),
    [row for row in ROWS if row[2] not in KINDS[row[0]][row[1]]],
    ids=lambda value: getattr(value, "value", value),
)
def test_combination_that_is_not_served_is_refused_by_name(
    command: str, option: str, kind: Kind, files: dict[Kind, Path], tmp_path: Path
) -> None:
    before = contents(files[kind].parent)
    words = _arguments(command, option, kind, files)
    done = _run(command, words, kind, files, tmp_path)
    assert done.returncode == ExitCode.USAGE, done.stderr
    assert kind.value in done.stderr
    takes_kind = any(kind in kinds for kinds in KINDS[command].values())
    # --states goes with --sites alone, which is refused first
    named = [option, *(["--sites"] if option == "--states" else [])]
    assert not takes_kind or any(f"{name} does not serve" in done.stderr for name in named)
    assert {path.name for path in tmp_path.iterdir()} <= {"other"}, "nothing is written"
    assert contents(files[kind].parent) == before


@pytest.mark.parametrize(
    ("command", "option", "kind"),
    [row for row in ROWS if row[2] in KINDS[row[0]][row[1]]],
    ids=lambda value: getattr(value, "value", value),
)
def test_combination_that_is_served_comes_to_its_job(
    command: str,
    option: str,
    kind: Kind,
    files: dict[Kind, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def reached(*_: object, **__: object) -> None:
        raise Reached("reached")

    for job in JOBS:
        for value in (KernelFile, ModuleFile, ModuleTree):
            monkeypatch.setattr(value, job, reached)
    done = _run(command, _arguments(command, option, kind, files), kind, files, tmp_path)
    assert done.stderr.splitlines()[-1:] == ["vmipatch: reached"], done.stderr


@pytest.mark.parametrize(
    ("command", "option", "extent"),
    [
        (command, option, extent)
        for command, options in EXTENTS.items()
        for option, served in options.items()
        for extent in (Extent if command == "verify" else Mode)
        if extent not in served
    ],
    ids=lambda value: getattr(value, "value", value),
)
def test_option_without_use_for_the_extent_is_refused(
    command: str, option: str, extent: Extent | Mode, files: dict[Kind, Path], tmp_path: Path
) -> None:
    words = [option, *VALUES[option]]
    words += [] if extent is Extent.NORMAL else [f"--{extent.value}"]
    if command == "verify" and option != "--original" and extent is not Extent.SITES:
        words += ["--original", "SAME"]
    done = _run(command, words, Kind.VMLINUX, files, tmp_path)
    assert done.returncode == ExitCode.USAGE, done.stderr
    assert f"{option} does not serve" in done.stderr


@pytest.mark.parametrize("option", ["--json", "--certificate", "--sarif", "--report"])
@pytest.mark.parametrize("kind", [k for k in Kind if k in ANY], ids=lambda kind: kind.value)
def test_report_over_an_input_is_refused(
    option: str, kind: Kind, files: dict[Kind, Path], tmp_path: Path
) -> None:
    before = contents(files[kind].parent)
    place = files[kind] if kind is not Kind.TREE else files[kind] / "kernel" / "site.ko"
    for command in ("scan", "rewrite", "verify", "restore"):
        if option not in KINDS[command]:
            continue
        words = NEEDED.get(command, []) + (["--original", "SAME"] if command == "verify" else [])
        done = _run(command, [option, str(place), *words], kind, files, tmp_path)
        assert done.returncode == ExitCode.USAGE, done.stderr
        assert "would be written" in done.stderr
    assert contents(files[kind].parent) == before
    assert not list(tmp_path.iterdir())


def test_kinds_that_are_not_made_from_each_other_are_not_compared(
    files: dict[Kind, Path],
) -> None:
    for kind, other in ((Kind.VMLINUX, Kind.MODULE), (Kind.MODULE, Kind.BZIMAGE)):
        done = invoke("verify", files[kind], "--original", files[other])
        assert done.returncode == ExitCode.USAGE
        assert f"{kind.value} is not made from a {other.value}" in done.stderr


def test_module_and_tree_need_what_they_are_compared_with(files: dict[Kind, Path]) -> None:
    for kind in (Kind.MODULE, Kind.TREE):
        done = invoke("verify", files[kind])
        assert done.returncode == ExitCode.USAGE
        assert "--original" in done.stderr


def test_directory_is_a_tree_without_being_told(files: dict[Kind, Path], tmp_path: Path) -> None:
    for extra in ([], ["--tree"]):
        place = tmp_path / f"out{len(extra)}"
        done = invoke("rewrite", files[Kind.TREE], "-o", place, *extra)
        assert done.returncode == ExitCode.SUCCESS, done.stderr
    assert contents(tmp_path / "out0") == contents(tmp_path / "out1")
    assert os.path.isdir(files[Kind.TREE])


@pytest.mark.parametrize(
    ("command", "flags"),
    [("verify", ("--static", "--full")), ("verify", ("--full", "--static")),
     ("run", ("--native", "--trap"))],
)  # fmt: skip
def test_flags_that_exclude_each_other_are_refused(
    command: str, flags: tuple[str, str], files: dict[Kind, Path]
) -> None:
    done = invoke(command, files[Kind.VMLINUX], *flags)
    assert done.returncode == ExitCode.USAGE
    assert f"{flags[0]} and {flags[1]} exclude each other" in done.stderr

# SPDX-License-Identifier: MIT
"""Do outputs come whole or not at all, and never at the cost of another file?"""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from tests.cli.commands import COMMAND, ENVIRONMENT, invoke, validated
from tests.recover.taken_out import without_relocations
from tests.recover.test_complete import small
from vmipatch.errors import EnvironmentProblem, ExitCode, OutputTaken
from vmipatch.files.beside import UNSTRIPPED
from vmipatch.files.outputs import Output, check_outputs, write_all


def test_pipe_is_written_and_not_replaced(tmp_path: Path) -> None:
    pipe, heard = tmp_path / "pipe", list[bytes]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: heard.append(pipe.read_bytes()))
    reader.start()
    write_all([Output(str(pipe), b"data")])
    reader.join(timeout=10)
    assert heard == [b"data"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert list(tmp_path.iterdir()) == [pipe]


def test_device_is_written_through_a_link_and_stays(tmp_path: Path) -> None:
    link = tmp_path / "null"
    link.symlink_to(os.devnull)
    done = invoke("rom", "-o", link, "--json", link)
    assert done.returncode == ExitCode.SUCCESS, "two outputs may share a device"
    assert link.is_symlink()
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_device_that_is_full_is_an_environment_problem(tmp_path: Path) -> None:
    other = tmp_path / "other"
    with pytest.raises(EnvironmentProblem, match="No space"):
        write_all([Output(str(other), b"a"), Output("/dev/full", b"b")])
    assert not list(tmp_path.iterdir())
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


@pytest.mark.parametrize("exists", [True, False])
def test_link_stays_and_what_it_leads_to_is_replaced(exists: bool, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "target", tmp_path / "link"
    if exists:
        target.write_bytes(b"old")
    link.symlink_to(Path("far") / "target")
    write_all([Output(str(link), b"new")])
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert list((tmp_path / "far").iterdir()) == [target]


@pytest.mark.parametrize("last", ["missing/x", "directory"])
def test_one_bad_place_leaves_all_as_it_was(last: str, tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"old")
    places = [old, new, tmp_path / last]
    with pytest.raises(EnvironmentProblem, match="cannot be written"):
        write_all([Output(str(place), b"data") for place in places])
    assert old.read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == [tmp_path / "directory", old]


@pytest.mark.parametrize("option", ["--system-map", "--address-map", "--json"])
def test_rewrite_with_a_bad_place_writes_nothing(option: str, guest: Path, tmp_path: Path) -> None:
    place = tmp_path / "missing" / "x"
    done = invoke("rewrite", guest, "-o", tmp_path / "out", option, place)
    assert done.returncode == ExitCode.ENVIRONMENT
    assert str(place) in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["same", "symbolic", "hard", "detour"])
def test_output_over_the_input_is_refused(kind: str, tmp_path: Path) -> None:
    kernel, output = tmp_path / "kernel", tmp_path / "output"
    kernel.write_bytes(b"not even read")
    if kind == "same":
        output = kernel
    elif kind == "symbolic":
        output.symlink_to(kernel)
    elif kind == "hard":
        output.hardlink_to(kernel)
    else:
        output.mkdir()
        output = output / ".." / "kernel"
    done = invoke("rewrite", kernel, "-o", output)
    assert done.returncode == ExitCode.USAGE
    assert "would be written over" in done.stderr
    assert kernel.read_bytes() == b"not even read"


def test_two_outputs_in_one_place_are_refused(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("new")
    with pytest.raises(OutputTaken, match="would be written over"):
        check_outputs([], [str(tmp_path / "new"), None, str(link)])
    with pytest.raises(OutputTaken, match="would be written over"):
        check_outputs([], ["-", "-"])


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_new_file_has_its_mode_under_the_umask(mask: int, tmp_path: Path) -> None:
    path, before = tmp_path / "file", os.umask(mask)
    try:
        write_all([Output(str(path), b"", mode=0o755)])
        assert os.umask(mask) == mask, "the mask is as it was"
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o755 & ~mask


@pytest.mark.parametrize("arguments", ["explain", "explain --json -", "rom -o -"])
def test_standard_output_that_is_full_is_an_environment_problem(arguments: str) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, *arguments.split()],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=ENVIRONMENT,
        )  # fmt: skip
    assert done.returncode == ExitCode.ENVIRONMENT
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("vmipatch: standard output: cannot be written: No space")


def test_trace_that_finds_no_room_is_an_environment_problem(guest: Path) -> None:
    done = invoke("run", "--native", guest, "--limit", "0.01", "--trace", "/dev/full")
    assert done.returncode == ExitCode.ENVIRONMENT
    assert "/dev/full: cannot be written: No space" in done.stderr


def test_file_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o600)
    write_all([Output(str(path), b"new", mode=0o755)])
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"new", 0o600)


@pytest.mark.parametrize("arguments", ["scan KERNEL", "verify --sites --states 1 KERNEL"])
def test_tables_on_a_full_standard_output_are_an_environment_problem(
    arguments: str, guest: Path, tmp_path: Path
) -> None:
    kernel = tmp_path / "vmi"
    assert invoke("rewrite", guest, "-o", kernel).returncode == ExitCode.SUCCESS
    _full(arguments.replace("KERNEL", str(kernel)))


def test_console_on_a_full_standard_output_is_an_environment_problem(guest: Path) -> None:
    _full(f"run --native --limit 5 {guest}")


def _full(arguments: str) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, *arguments.split()], stdin=subprocess.DEVNULL,
            stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=ENVIRONMENT,
        )  # fmt: skip
    assert done.returncode == ExitCode.ENVIRONMENT
    last = done.stderr.splitlines()[-1]
    assert last.startswith("vmipatch: standard output: cannot be written: No space")


def test_standard_error_that_is_full_changes_no_exit_code(guest: Path, tmp_path: Path) -> None:
    for arguments, code in (
        (f"rewrite {guest} -o {tmp_path / 'out'}", ExitCode.SUCCESS),
        (f"scan {tmp_path / 'missing'}", ExitCode.ENVIRONMENT),
    ):
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                [*COMMAND, *arguments.split()], stderr=full, check=False, env=ENVIRONMENT
            )
        assert done.returncode == code


@pytest.mark.parametrize("exists", [True, False])
def test_old_files_come_back_if_a_later_one_is_refused(
    exists: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    if exists:
        first.write_bytes(b"old")
    second.write_bytes(b"old")
    real = os.replace

    def refuses(source: str, target: str) -> None:
        if target == str(second) and Path(source).read_bytes() == b"new":
            raise PermissionError(1, "Operation not permitted")
        real(source, target)

    monkeypatch.setattr(os, "replace", refuses)
    with pytest.raises(EnvironmentProblem, match="second: cannot be written"):
        write_all([Output(str(place), b"new") for place in (first, second)])
    assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == [b"old"] * (1 + exists)


def test_name_that_is_too_long_is_refused_before_any_work(guest: Path, tmp_path: Path) -> None:
    done = invoke("rewrite", guest, "-o", tmp_path / "out", "--json", tmp_path / ("a" * 260))
    assert done.returncode == ExitCode.ENVIRONMENT
    assert not list(tmp_path.iterdir())


def test_standard_output_by_name_is_not_replaced(guest: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"precious\n")
    with log.open("ab") as file:
        subprocess.run(
            [*COMMAND, "scan", str(guest), "--json", "/dev/stdout"], stdout=file, check=True,
            env=ENVIRONMENT,
        )  # fmt: skip
    text = log.read_text()
    assert text.startswith("precious\n{") and text.endswith("}\n"), "and no table after it"


@pytest.mark.parametrize("arguments", ["--help", "--version", "explain", "rom -o -"])
def test_standard_output_that_is_full_or_closed_ends_in_one_line(arguments: str) -> None:
    script = '"$@" >/dev/full', '"$@" >&-'
    for redirected in script:
        done = subprocess.run(
            ["sh", "-c", redirected, "sh", *COMMAND, *arguments.split()],
            stderr=subprocess.PIPE, text=True, check=False, env=ENVIRONMENT,
        )  # fmt: skip
        assert "internal error" not in done.stderr and "Traceback" not in done.stderr
        assert done.returncode == ExitCode.ENVIRONMENT or arguments.startswith("--")


def test_no_output_takes_set_user_id_along(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o4755)
    write_all([Output(str(path), b"new")])
    assert stat.S_IMODE(path.stat().st_mode) == 0o755


def test_file_beside_the_kernel_is_an_input_too(tmp_path: Path) -> None:
    data, _ = without_relocations(small())
    kernel, beside = tmp_path / "vmlinux", tmp_path / UNSTRIPPED
    kernel.write_bytes(data)
    beside.write_bytes(small().build())
    before = beside.read_bytes()
    done = invoke("rewrite", kernel, "-o", beside)
    assert done.returncode == ExitCode.USAGE
    out, paper = tmp_path / "out", tmp_path / "certificate"
    assert invoke("rewrite", kernel, "-o", out).returncode == ExitCode.SUCCESS
    words = ("verify", "--static", out, "--original", kernel, "--certificate")
    assert invoke(*words, beside).returncode == ExitCode.USAGE
    assert beside.read_bytes() == before
    assert invoke(*words, paper).returncode == ExitCode.SUCCESS
    certificate = validated(paper.read_text(), "certificate-1")
    assert certificate["input_references_sha256"] == hashlib.sha256(before).hexdigest()

# SPDX-License-Identifier: MIT
"""Do tables, steps and colours fit a terminal of any width, and leave a pipe alone?"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from examples.guest import build as build_guest
from tests.support.screen import Screen
from tests.support.smallmodule import SmallModule
from vmipatch.cli.colour import coloured
from vmipatch.cli.table import table
from vmipatch.verify.verdict import Outcome

HEADER = ("sites", "left native because")
ROWS = ((12, "runs before paging is on, where no ROM is mapped"), (3, "short"))
ESCAPE = b"\x1b"


def on_terminal(
    columns: int,
    *arguments: str | Path,
    lines: int = 24,
    stdout: Path | None = None,
    **env: str,
) -> bytes:
    """Output of `vmipatch` on a terminal of so many columns: both streams, or standard error."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    plain = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES")}
    out = follower if stdout is None else os.open(stdout, os.O_WRONLY | os.O_CREAT)
    process = subprocess.Popen(
        [sys.executable, "-m", "vmipatch", *map(str, arguments)],
        stdout=out, stderr=follower, env=plain | {"TERM": "xterm"} | env,
    )  # fmt: skip
    if out != follower:
        os.close(out)
    os.close(follower)
    text = b""
    while True:
        try:
            chunk = os.read(leader, 65536)
        except OSError:  # EIO: the other side is closed
            break
        if not chunk:
            break
        text += chunk
    os.close(leader)
    assert process.wait() == 0, text
    return text


def in_a_pipe(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vmipatch", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True)


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("guest") / "vmlinux"
    path.write_bytes(build_guest())
    return path


def widths(text: bytes) -> list[int]:
    return [len(line.rsplit(b"\x1b[K")[-1]) for line in text.splitlines()]


@pytest.mark.parametrize("columns", [80, 200])
def test_scan_fits_the_terminal(guest: Path, columns: int) -> None:
    assert max(widths(on_terminal(columns, "scan", guest))) <= columns


def test_a_row_is_one_line_in_a_pipe(guest: Path) -> None:
    done = in_a_pipe("scan", guest)
    assert "\x1b" not in done.stdout + done.stderr
    assert max(map(len, done.stdout.splitlines())) > 80, "or the width says nothing"
    assert "\n\n" in done.stdout


SIZES = ((80, 24), (200, 50))
TIMES = re.compile(r"\d+\.\d s")
TREE = 3
"""Modules of the tree."""


@pytest.fixture(scope="module")
def work(guest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a kernel, its rewritten form, and a tree of modules."""
    directory = tmp_path_factory.mktemp("work")
    shutil.copy(guest, directory / "vmlinux")
    (directory / "tree").mkdir()
    for number in range(TREE):
        module = SmallModule()
        module.section(".text").function("f", "fa c3")
        (directory / "tree" / f"{number}.ko").write_bytes(module.build())
    in_a_pipe("-q", "rewrite", guest, "-o", directory / "vmlinux.vmi")
    return directory


COMMANDS = {
    "rewrite": ("rewrite", "vmlinux", "-o", "again.vmi"),
    "verify": ("verify", "--static", "vmlinux.vmi", "--original", "vmlinux"),
    "tree": ("rewrite", "--tree", "tree", "-o", "OUT", "--jobs", "1"),
}
DRAWN = {
    "rewrite": ("scanning", "laying out code", "relinking"),
    "verify": ("static check", "steps ["),
    "tree": ("tree: files [",),
}
"""Words that come and go."""


def arguments_of(command: str, work: Path, target: Path) -> list[str]:
    places = {name: str(work / name) for name in ("vmlinux", "vmlinux.vmi", "tree")}
    places |= {"again.vmi": str(target / "again.vmi"), "OUT": str(target / "modules")}
    return [places.get(word, word) for word in COMMANDS[command]]


@pytest.fixture(scope="module", params=COMMANDS)
def piped(
    request: pytest.FixtureRequest, work: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str]:
    """A command, and both streams of it in a pipe, as a terminal would show them."""
    target = tmp_path_factory.mktemp("piped")
    done = in_a_pipe(*arguments_of(request.param, work, target))
    return request.param, (done.stderr + done.stdout).replace(str(target), "TARGET")


def test_a_pipe_gets_whole_lines_and_no_codes(piped: tuple[str, str]) -> None:
    _, text = piped
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", text)
    assert text.endswith("\n")


@pytest.mark.parametrize(("columns", "lines"), SIZES)
def test_a_terminal_shows_bars_and_keeps_what_a_pipe_gets(
    piped: tuple[str, str], work: Path, tmp_path: Path, columns: int, lines: int
) -> None:
    command, text = piped
    arguments = arguments_of(command, work, tmp_path)
    raw = on_terminal(columns, *arguments, lines=lines).decode().replace(str(tmp_path), "TARGET")
    for words in DRAWN[command]:
        assert words in raw
    screen = Screen(columns, lines)
    screen.feed(raw)
    kept = [line for line in text.splitlines() if not line.endswith(": begun")]
    assert words_of(screen.text) == words_of("\n".join(kept))


def test_a_run_into_a_file_has_a_bar_and_one_on_the_terminal_has_none(
    work: Path, tmp_path: Path
) -> None:
    words = ("run", "--native", str(work / "vmlinux"))
    console = tmp_path / "console"
    seen = on_terminal(80, *words, stdout=console)
    assert b"running [" in seen
    assert ESCAPE not in console.read_bytes()
    assert b"running" not in on_terminal(80, *words)


def words_of(text: str) -> list[str]:
    """Words in order of the alphabet: a narrow table has them in other lines."""
    return sorted(re.sub(r"-{3,}", "", TIMES.sub("TIME", text)).split())


def test_each_step_has_one_time(guest: Path, tmp_path: Path) -> None:
    done = in_a_pipe("-v", "rewrite", guest, "-o", tmp_path / "out")
    assert done.stderr.count(": scanning: ") == 1
    assert "\x1b" not in done.stderr


def test_quiet_is_quiet(guest: Path, tmp_path: Path) -> None:
    assert on_terminal(80, "-q", "rewrite", guest, "-o", tmp_path / "out") == b""


def test_verdict_is_coloured_unless_told_not_to(work: Path) -> None:
    verify = ("-q", "verify", "--static", work / "vmlinux.vmi", "--original", work / "vmlinux")
    assert b"\x1b[32mholds" in on_terminal(80, *verify)
    assert ESCAPE not in on_terminal(80, *verify, NO_COLOR="1")


def test_widest_text_is_wrapped_and_numbers_are_not() -> None:
    assert table(HEADER, ROWS, 40).splitlines() == [
        "sites  left native because",
        "-----  ---------------------------------",
        "   12  runs before paging is on, where",
        "       no ROM is mapped",
        "    3  short",
    ]


def test_without_a_limit_a_row_is_one_line() -> None:
    assert len(table(HEADER, ROWS).splitlines()) == 2 + len(ROWS)


@pytest.mark.parametrize("outcome", Outcome)
def test_outcomes_alone_are_coloured(outcome: Outcome) -> None:
    assert coloured(f"file: {outcome.value}").startswith("file: \x1b[")
    assert "\x1b[" in coloured(f"static check  {outcome.value}  2474 instructions")
    assert coloured(f"what {outcome.value} there") == f"what {outcome.value} there"

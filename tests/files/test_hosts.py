# SPDX-License-Identifier: MIT
"""Do the jobs that a 32-bit host has work without what it lacks?"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.commands import COMMAND, ENVIRONMENT, ROOT, vmipatch
from tests.conftest import KernelFinder
from tests.files.samples import contents, one_of_each
from tests.support.narrow import PROLOGUE
from vmipatch.emu.processor import calibration
from vmipatch.errors import EnvironmentProblem
from vmipatch.files.kind import Kind

BLOCKED = (
    "import sys; sys.modules['unicorn'] = None; from vmipatch.cli.main import run;"
    " sys.exit(run(sys.argv[1:]))"
)
"""The command line where `import unicorn` fails."""


def _run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCKED, *map(str, words)],
        capture_output=True, text=True, check=False, env=ENVIRONMENT,
    )  # fmt: skip


def test_rewriting_and_its_way_back_do_without_the_emulator(guest: Path, tmp_path: Path) -> None:
    output, back = tmp_path / "out", tmp_path / "back"
    commands: tuple[list[str | Path], ...] = (
        ["scan", guest],
        ["doctor", guest],
        ["rewrite", guest, "-o", output],
        ["restore", output, "-o", back],
    )
    for words in commands:
        done = _run(*words)
        assert done.returncode == 0, (words[0], done.stderr)
    assert back.read_bytes() == guest.read_bytes()


def test_emulator_says_that_it_needs_64_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "maxsize", (1 << 31) - 1)
    with pytest.raises(EnvironmentProblem, match="64-bit") as raised:
        calibration.check_unicorn.__wrapped__()
    assert "rewrite" in raised.value.hint


def _run_narrow(directory: Path, *words: str | Path) -> None:
    """Run a command whose numpy counts with 32 bits, as do the processes that it starts."""
    (directory / "sitecustomize.py").write_text(PROLOGUE)
    path = os.pathsep.join(map(str, (directory, ROOT)))
    done = subprocess.run(
        [*COMMAND, *map(str, words)],
        capture_output=True, text=True, check=False, env=ENVIRONMENT | {"PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, (words[0], done.stderr)


def _check_narrow(original: Path, directory: Path) -> None:
    """Where numpy counts with 32 bits a file becomes the same bytes, is proven and comes back."""
    tree = ["--tree"] if original.is_dir() else []
    wide, narrow, back = (directory / name for name in ("wide", "narrow", "back"))
    done = vmipatch("rewrite", *tree, original, "-o", wide)
    assert done.returncode == 0, done.stderr
    _run_narrow(directory, "rewrite", *tree, original, "-o", narrow)
    assert _bytes_of(narrow) == _bytes_of(wide)
    _run_narrow(
        directory, "verify", *tree, narrow, "--original", original, *([] if tree else ["--static"])
    )
    _run_narrow(directory, "restore", *tree, narrow, "-o", back)
    assert _bytes_of(back) == _bytes_of(original)


def _bytes_of(path: Path) -> dict[str, bytes] | bytes:
    return contents(path) if path.is_dir() else path.read_bytes()


@pytest.mark.parametrize("kind", [Kind.VMLINUX, Kind.MODULE, Kind.TREE])
def test_each_kind_does_with_a_numpy_of_32_bits(kind: Kind, guest: Path, tmp_path: Path) -> None:
    _check_narrow(one_of_each(tmp_path, guest)[kind], tmp_path)


@pytest.mark.parametrize("file", ["vmlinux", "bzImage"])
def test_linux_does_with_a_numpy_of_32_bits(
    file: str, kernel: KernelFinder, tmp_path: Path
) -> None:
    _check_narrow(kernel("tiny").with_name(file), tmp_path)

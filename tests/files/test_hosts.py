# SPDX-License-Identifier: MIT
"""Do the jobs that a 32-bit host has work without what it lacks?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.commands import ENVIRONMENT
from vmipatch.emu.processor import calibration
from vmipatch.errors import EnvironmentProblem

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

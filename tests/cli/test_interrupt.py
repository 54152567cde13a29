# SPDX-License-Identifier: MIT
"""Does a user who gives up see one line, and find nothing half done?"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.commands import ENVIRONMENT, invoke
from vmipatch.cli.main import INTERRUPTED

HEEDING_INTERRUPTS = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from vmipatch.cli.main import main; main()"
)
"""The command; a shell starts what it puts in the background with interrupts ignored."""
PATIENCE_S = 300
"""For a host so busy that a process needs minutes to start."""


def _temporary_exists(directory: Path) -> bool:
    return any(path.name.startswith(".vmipatch.") for path in directory.iterdir())


def test_interrupt_while_writing_leaves_nothing(tmp_path: Path) -> None:
    """The report goes to a pipe that is not read, so the ROM waits beside its place."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    arguments = ["rom", "-o", str(tmp_path / "rom"), "--json", str(pipe)]
    with subprocess.Popen(
        [sys.executable, "-c", HEEDING_INTERRUPTS, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as process:
        deadline = time.monotonic() + PATIENCE_S
        while not _temporary_exists(tmp_path):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, talk = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == INTERRUPTED
    assert talk.strip().splitlines() == ["vmipatch: interrupted"]
    assert list(tmp_path.iterdir()) == [pipe]


def test_interrupt_while_working_is_no_internal_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vmipatch.rom.build_rom", interrupted)
    done = invoke("rom", "-o", tmp_path / "rom")
    assert (done.returncode, done.stderr.strip()) == (INTERRUPTED, "vmipatch: interrupted")
    assert not list(tmp_path.iterdir())

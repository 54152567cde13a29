# SPDX-License-Identifier: MIT
"""What does a run say with Unicorn's code changed, and what with the code as it was installed?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmipatch.emu.processor.engine import PLAIN_UNICORN


@dataclass(frozen=True, slots=True)
class Seen:
    """Output of one run."""

    console: bytes
    report: dict[str, Any]
    """All of it but the word on Unicorn: blocks, time, exits, digest of the memory."""
    unicorn: dict[str, Any]


def run(directory: Path, *arguments: str, plain: bool) -> Seen:
    """`vmipatch run` in a process of its own; its report goes into `directory`."""
    report_file = directory / f"plain-{plain}.json"
    done = subprocess.run(
        [sys.executable, "-m", "vmipatch", "run", "--json", str(report_file), *arguments],
        env={**os.environ, PLAIN_UNICORN: "1" if plain else ""},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    )
    report = json.loads(report_file.read_text())
    unicorn = report.pop("unicorn")
    return Seen(done.stdout, report, unicorn)


def check_equal(directory: Path, *arguments: str) -> Seen:
    """Run both ways; what the guest did and left must be the same to the last byte."""
    fast, plain = (run(directory, *arguments, plain=value) for value in (False, True))
    assert fast.unicorn == {"changed": True, "reason": ""}
    assert plain.unicorn == {"changed": False, "reason": f"{PLAIN_UNICORN} is set"}
    assert fast.report == plain.report
    assert fast.console == plain.console
    return fast

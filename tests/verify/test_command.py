# SPDX-License-Identifier: MIT
"""Does `vmipatch verify` tell the truth about the test kernels, and in a form that fits?"""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.cli.commands import ROOT, vmipatch
from tests.conftest import KernelFinder
from vmipatch.errors import ExitCode
from vmipatch.verify.verdict import Statement

pytestmark = pytest.mark.kernels

ESCAPE = "\x1b"


def report_of(file: Path) -> dict[str, Any]:
    """The JSON report, checked against its schema."""
    report: dict[str, Any] = json.loads(file.read_text())
    schema = json.loads((ROOT / "docs" / "schemas" / "verify-2.json").read_text())
    jsonschema.validate(report, schema)
    return report


def check_holds(kernel: Path, original: Path, directory: Path, *options: str) -> dict[str, Any]:
    """Verify, and return the report."""
    file = directory / "report.json"
    done = vmipatch("verify", kernel, "--original", original, "--json", file, *options)
    assert done.returncode == ExitCode.SUCCESS, done.stdout + done.stderr
    assert done.stdout.endswith(f"{kernel}: {Statement.PROVEN_AND_BOOTED.value}\n")
    assert ESCAPE not in done.stdout + done.stderr, "this is not a terminal"
    assert all(re.match(r"[\w ,]+: (begun|done, [\d.]+ s)$", x) for x in done.stderr.splitlines())
    return report_of(file)


def test_quick_check_of_a_kernel_holds(
    kernel: KernelFinder, rewritten: KernelFinder, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    report = check_holds(
        rewritten("tiny"), kernel("tiny"), tmp_path, "--quick", "--report", str(page)
    )
    assert report["statement"] == "proven-and-booted"
    assert set(report["boots"]) == {"audit"}
    assert report["boots"]["audit"]["paravirtual"]
    assert report["coverage"]["executed"] > 500
    assert "<svg" in page.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "tiny-os", "smp-pae"])
def test_full_check_of_each_kernel_holds(
    kernel: KernelFinder, rewritten: KernelFinder, tmp_path: Path, name: str
) -> None:
    report = check_holds(rewritten(name), kernel(name), tmp_path, "--full")
    boots = report["boots"]
    assert set(boots) == {"original", "native", "audit", "measured", "trapped"}
    assert len({boot["system_calls"] for boot in boots.values()}) == 1
    exits = {name: sum(boot["exits"].values()) for name, boot in boots.items()}
    assert exits["measured"] < exits["trapped"] / 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "tiny-os", "smp-pae"])
def test_lockstep_of_each_kernel_holds(
    kernel: KernelFinder, rewritten: KernelFinder, tmp_path: Path, name: str
) -> None:
    page = tmp_path / "report.html"
    options = ("--lockstep", "--report", str(page))
    report = check_holds(rewritten(name), kernel(name), tmp_path, *options)
    found = report["lockstep"]
    assert report["boots"] == {} and found["divergence"] is None
    assert found["compared"]["system calls"] > 1500
    assert len(set(found["endings"])) == 1
    assert "<h2>Lockstep</h2>" in page.read_text()


def test_coverage_that_is_not_reached_has_a_code_of_its_own(
    rewritten: KernelFinder, tmp_path: Path
) -> None:
    file = tmp_path / "report.json"
    done = vmipatch(
        "-q", "verify", rewritten("tiny"), "--quick", "--require-coverage", "99", "--json", file
    )
    assert done.returncode == ExitCode.BELOW
    assert done.stderr == ""
    report = report_of(file)
    assert (report["statement"], report["holds"], report["static"]) == ("below", True, None)


def test_terminal_is_told_of_time_and_console_meanwhile(rewritten: KernelFinder) -> None:
    ours, theirs = pty.openpty()
    command = "from vmipatch.cli.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", command, "verify", "--quick", str(rewritten("tiny"))],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    os.close(theirs)
    seen = b""
    try:
        while data := os.read(ours, 4096):
            seen += data
    except OSError:
        pass  # how Linux says that the other side has closed
    os.close(ours)
    assert process.wait() == ExitCode.SUCCESS
    assert ESCAPE.encode() in seen
    assert re.search(rb"audited +\d+\.\d{3} s  \[ +\d+\.\d+\] ", seen)


def test_kernel_that_was_not_rewritten_is_an_error(kernel: KernelFinder) -> None:
    done = vmipatch("verify", kernel("tiny"))
    assert done.returncode == ExitCode.INPUT
    assert "vmipatch rewrite" in done.stderr

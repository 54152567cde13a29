# SPDX-License-Identifier: MIT
"""How does a test run vmipatch as a user does? In this process, or as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jsonschema
from click.testing import CliRunner

from vmipatch.cli.main import run

ROOT = Path(__file__).parents[2]
COMMAND: Final = (sys.executable, "-c", "from vmipatch.cli.main import main; main()")
ENVIRONMENT: Final = {**os.environ, "PYTHONPATH": str(ROOT)}


@dataclass(frozen=True, slots=True)
class Done:
    """The result of a command: its exit code and streams."""

    returncode: int
    stdout: str
    stderr: str


def invoke(*arguments: str | Path) -> Done:
    """Run a command in this process, which saves the start of an interpreter."""
    with CliRunner().isolation() as (out, err, _):
        code = run([str(argument) for argument in arguments])
        return Done(code, out.getvalue().decode(), err.getvalue().decode())


def vmipatch(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command as a process, to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=ENVIRONMENT,
    )


def validated(text: str, schema: str) -> dict[str, Any]:
    """A report that keeps the schema of this name, for example `scan-1`.

    It has nothing of a path of this machine, where every test has its files.
    """
    assert tempfile.gettempdir() not in text
    document: dict[str, Any] = json.loads(text)
    rules = json.loads((ROOT / "docs" / "schemas" / f"{schema}.json").read_text())
    jsonschema.Draft202012Validator(rules).validate(document)
    name, _, version = schema.rpartition("-")
    assert document["schema"] == f"vmipatch.{name}/{version}"
    return document

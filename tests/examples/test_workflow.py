# SPDX-License-Identifier: MIT
"""Does the reusable workflow of examples/pipelines/ci do what it says, as far as that is vmipatch?

Its commands are executed, in order, on a module and the example kernel; GitHub's own steps are not.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.smallmodule import SmallModule
from vmipatch.files.tree_verification import CERTIFICATE_SCHEMA
from vmipatch.verify.certificate import SCHEMA
from vmipatch.verify.in_toto import statement

FILE = Path(__file__).parents[2] / "examples" / "pipelines" / "ci" / "vmipatch.yml"


@pytest.fixture(scope="module")
def workflow() -> dict[Any, Any]:
    parsed: dict[Any, Any] = yaml.safe_load(FILE.read_text())
    return parsed


@pytest.fixture(scope="module")
def steps(workflow: dict[Any, Any]) -> list[dict[str, Any]]:
    (job,) = workflow["jobs"].values()
    found: list[dict[str, Any]] = job["steps"]
    return found


def named(steps: list[dict[str, Any]], start: str) -> dict[str, Any]:
    (step,) = (each for each in steps if each.get("name", "").startswith(start))
    return step


def test_it_is_called_by_others(workflow: dict[Any, Any]) -> None:
    # YAML 1.1 takes the key `on` for a truth value.
    inputs = workflow[True]["workflow_call"]["inputs"]
    text = FILE.read_text()
    for name, described in inputs.items():
        assert described["description"] and described["type"] == "string"
        assert f"inputs.{name} }}}}" in text, "each is used"


def test_each_step_uses_one_action_or_runs(steps: list[dict[str, Any]]) -> None:
    for step in steps:
        assert ("uses" in step) != ("run" in step), step
        if "uses" in step:
            assert "@v" in step["uses"], "pinned to a release"
        else:
            assert "${{" not in step["run"], "an input in a script could be code: give it by env"


def test_permissions_are_those_that_its_actions_ask_for(workflow: dict[Any, Any]) -> None:
    assert workflow["permissions"] == {"contents": "read"}
    (job,) = workflow["jobs"].values()
    extra = {name for name, value in job["permissions"].items() if value == "write"}
    assert extra == {"security-events", "id-token", "attestations"}


@pytest.mark.parametrize(
    ("step", "schema"),
    [("Attest the kernel", SCHEMA), ("Attest the modules", CERTIFICATE_SCHEMA)],
)
def test_predicate_type_is_that_of_the_certificate(
    steps: list[dict[str, Any]], step: str, schema: str
) -> None:
    given = named(steps, step)["with"]["predicate-type"]
    assert given == statement([], schema, {})["predicateType"]


def test_nothing_is_attested_before_it_is_proven(steps: list[dict[str, Any]]) -> None:
    order = [each.get("name", "") for each in steps]
    proven = order.index("Prove")
    assert order.index("Rewrite") < proven < order.index("Attest the kernel")
    for name in ("Attest the kernel", "Attest the modules"):
        assert "if" not in named(steps, name), "a failed proof ends the job"


def test_commands_write_what_later_steps_read(
    steps: list[dict[str, Any]], guest: Path, tmp_path: Path
) -> None:
    (tmp_path / "in/modules").mkdir(parents=True)
    shutil.copy(guest, tmp_path / "in/vmlinux")
    wrapped = [sys.executable, "-m", "vmipatch", "wrap", str(guest)]
    subprocess.run([*wrapped, "-o", str(tmp_path / "in/vmlinuz")], check=True)
    module = SmallModule()
    module.section(".text").function("small", "9c 58 fa", "c3")
    (tmp_path / "in/modules/small.ko").write_bytes(module.build())
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for name in ("Rewrite", "Prove"):
        # The example kernel was packed with vmipatch's own boot code, and has no other to keep.
        script = named(steps, name)["run"].replace("--boot-code keep", "--boot-code own")
        environment = os.environ | {"PATH": path, "EXTENT": "--static"}
        subprocess.run(["bash", "-e", "-c", script], cwd=tmp_path, env=environment, check=True)
    for name in ("Attest the kernel", "Attest the modules"):
        given = named(steps, name)["with"]
        assert json.loads((tmp_path / given["predicate-path"]).read_text())
        assert list(tmp_path.glob(given["subject-path"]))
    sarif = named(steps, "Show the findings")["with"]["sarif_file"]
    assert json.loads((tmp_path / sarif).read_text())["version"] == "2.1.0"

# SPDX-License-Identifier: MIT
"""Do the commands keep what their help promises?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.cli.commands import ROOT, vmipatch
from vmipatch import __version__
from vmipatch.cli.main import cli
from vmipatch.errors import ExitCode


def _validated(text: str, schema: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(text)
    rules = json.loads((ROOT / "docs" / "schemas" / f"{schema}.json").read_text())
    jsonschema.Draft202012Validator(rules).validate(document)
    assert document["schema"] == f"vmipatch.{schema.replace('-', '/')}"
    return document


def test_scan_json_on_stdout_is_all_there_is(guest: Path) -> None:
    result = vmipatch("scan", guest, "--json", "-")
    assert result.returncode == ExitCode.SUCCESS
    report = _validated(result.stdout, "scan-1")
    cli_sites = [site for site in report["sites"] if site["class"] == "cli"]
    assert cli_sites
    for site in cli_sites:
        assert site["bytes"] == "fa"
        assert site["mnemonic"] == "cli"
        assert site["vmi_name"] == "DISABLE_INTERRUPTS"
    for section in report["sections"]:
        parts = section["code_len"] + section["padding_len"] + section["unknown_len"]
        assert parts == section["end_va"] - section["start_va"], "each byte counts once"


def test_scan_table_adds_up_to_the_json(guest: Path, tmp_path: Path) -> None:
    file = tmp_path / "sites.json"
    result = vmipatch("scan", guest, "--json", file)
    report = _validated(file.read_text(), "scan-1")
    total = next(line for line in result.stdout.splitlines() if line.startswith("all "))
    assert int(total.split()[-1]) == len(report["sites"])


def test_rewrite_then_verify_holds(guest: Path, tmp_path: Path) -> None:
    output, log = tmp_path / "vmlinux.vmi", tmp_path / "rewrite.json"
    maps = tmp_path / "System.map", tmp_path / "moves"
    done = vmipatch(
        "rewrite", guest, "-o", output, "--json", log,
        "--system-map", maps[0], "--address-map", maps[1],
    )  # fmt: skip
    assert done.returncode == ExitCode.SUCCESS
    assert done.stdout == "", "talk goes to standard error"
    report = _validated(log.read_text(), "rewrite-1")
    assert report["sites"]["rewritten"] > 0
    lines = maps[0].read_text().splitlines()
    starts = [line.split()[0] for line in lines if line.endswith(" __vmi_annotation")]
    assert len(starts) == 1
    assert int(starts[0], 16) % 4096 == 0
    assert maps[1].read_text().startswith("# old start, new start")
    checked = vmipatch("verify", "--static", output, "--original", guest, "--json", "-")
    verdict = _validated(checked.stdout, "verify-2")
    assert (checked.returncode, verdict["holds"], verdict["findings"]) == (0, True, [])


def test_verify_of_a_changed_kernel_is_a_finding(guest: Path, tmp_path: Path) -> None:
    output = tmp_path / "vmlinux.vmi"
    vmipatch("rewrite", guest, "-o", output)
    data = bytearray(output.read_bytes())
    at = data.index(b"\x3e\x3e\x3e\x3e\xfa")
    data[at + 4] = 0xFB
    output.write_bytes(data)
    result = vmipatch("verify", "--static", output, "--original", guest)
    assert result.returncode == ExitCode.FINDINGS
    assert "VP" in result.stdout
    assert "does not hold" in result.stdout


def test_quiet_says_nothing(guest: Path, tmp_path: Path) -> None:
    result = vmipatch("-q", "rewrite", guest, "-o", tmp_path / "out")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_version_is_the_package_version() -> None:
    assert vmipatch("--version").stdout == f"vmipatch, version {__version__}\n"


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_each_command_has_help_with_an_example(command: str) -> None:
    result = vmipatch(command, "--help")
    assert result.returncode == ExitCode.SUCCESS
    assert "Example: " in result.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_names_our_variable(shell: str) -> None:
    assert "_VMIPATCH_COMPLETE" in vmipatch("completion", shell).stdout


def test_help_documents_every_exit_code() -> None:
    text = vmipatch("--help").stdout
    for code in ExitCode:
        assert f"  {int(code)}  " in text


def test_explain_knows_the_rules_that_findings_name() -> None:
    listed = vmipatch("explain").stdout.split()
    numbers = [word for word in listed if word.startswith("VP") and word[2:].isdigit()]
    assert "VP001" in numbers
    assert vmipatch("explain", numbers[-1]).returncode == ExitCode.SUCCESS
    assert vmipatch("explain", "VP999").returncode == ExitCode.USAGE

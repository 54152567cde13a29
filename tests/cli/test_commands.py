# SPDX-License-Identifier: MIT
"""Do the commands keep what their help promises?"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from tests.cli.commands import ROOT, invoke, validated, vmipatch
from tests.rewrite.smallkernel import with_strange_table
from vmipatch import __version__
from vmipatch.cli.main import INTERRUPTED, cli
from vmipatch.errors import ExitCode

TIME = re.compile(r"\b\d+\.\d s\b")
"""Of a step: no two runs take the same."""


def test_scan_json_on_stdout_is_all_there_is(guest: Path) -> None:
    result = invoke("scan", guest, "--json", "-")
    assert result.returncode == ExitCode.SUCCESS
    report = validated(result.stdout, "scan-2")
    cli_sites = [site for site in report["sites"] if site["class"] == "cli"]
    assert cli_sites
    for site in cli_sites:
        assert site["bytes"] == "fa"
        assert site["mnemonic"] == "cli"
        assert site["vmi_name"] == "DISABLE_INTERRUPTS"
    for section in report["sections"]:
        size = section["end_va"] - section["start_va"]
        assert sum(section["bytes"].values()) == size, "each byte counts once"
        assert sum(section["evidence"].values()) == size
        edges = [line.split()[0].split("-") for line in section["intervals"]]
        assert sum(int(end, 16) - int(start, 16) for start, end in edges) == size
        assert not section["bytes"]["unknown"]
        counted = sum(sum(kinds.values()) for kinds in section["decodings"].values())
        assert sum(int(line.split()[-1]) for line in section["decoding_intervals"]) == counted


def test_scan_goes_without_a_table_it_does_not_understand(tmp_path: Path) -> None:
    """It says so, and rewrite refuses the file for the same reason."""
    path = tmp_path / "vmlinux"
    kernel = with_strange_table()
    path.write_bytes(kernel.build())
    result = invoke("scan", path, "--json", "-")
    assert result.returncode == ExitCode.SUCCESS
    report = validated(result.stdout, "scan-2")
    assert "cli" in {site["class"] for site in report["sites"]}
    (reason,) = report["tables_not_understood"]
    assert reason.startswith(f"{kernel.va('__start___bug_table'):#x}: __bug_table: entry 0 ")
    assert f"{path}: {reason}" in result.stderr
    refused = invoke("rewrite", path, "-o", tmp_path / "out")
    assert refused.returncode == ExitCode.INPUT
    assert reason in refused.stderr


def test_scan_table_adds_up_to_the_json(guest: Path, tmp_path: Path) -> None:
    file = tmp_path / "sites.json"
    result = invoke("scan", guest, "--json", file)
    report = validated(file.read_text(), "scan-2")
    totals = [line for line in result.stdout.splitlines() if line.startswith("all ")]
    assert int(totals[0].split()[-1]) == len(report["sites"])
    counts = [kinds for section in report["sections"] for kinds in section["decodings"].values()]
    assert int(totals[1].split()[-1]) == sum(sum(kinds.values()) for kinds in counts)


def test_rewrite_then_verify_holds(guest: Path, tmp_path: Path) -> None:
    output, log = tmp_path / "vmlinux.vmi", tmp_path / "rewrite.json"
    maps = tmp_path / "System.map", tmp_path / "moves"
    done = invoke(
        "rewrite", guest, "-o", output, "--json", log,
        "--system-map", maps[0], "--address-map", maps[1],
    )  # fmt: skip
    assert done.returncode == ExitCode.SUCCESS
    assert done.stdout == "", "talk goes to standard error"
    report = validated(log.read_text(), "rewrite-1")
    assert report["sites"]["rewritten"] > 0
    lines = maps[0].read_text().splitlines()
    starts = [line.split()[0] for line in lines if line.endswith(" __vmi_annotation")]
    assert len(starts) == 1
    assert int(starts[0], 16) % 4096 == 0
    assert maps[1].read_text().startswith("# old start, new start")
    papers = tmp_path / "certificate.json", tmp_path / "findings.sarif"
    checked = invoke(
        "verify", "--static", output, "--original", guest, "--json", "-",
        "--certificate", papers[0], "--sarif", papers[1],
    )  # fmt: skip
    certificate = validated(papers[0].read_text(), "certificate-1")
    assert certificate["input_sha256"] == hashlib.sha256(guest.read_bytes()).hexdigest()
    assert certificate["output_sha256"] == hashlib.sha256(output.read_bytes()).hexdigest()
    assert json.loads(papers[1].read_text())["runs"][0]["results"] == []
    verdict = validated(checked.stdout, "verify-2")
    assert (checked.returncode, verdict["holds"], verdict["findings"]) == (0, True, [])


def test_restore_gives_back_what_rewrite_promised(guest: Path, tmp_path: Path) -> None:
    output, back = tmp_path / "vmlinux.vmi", tmp_path / "vmlinux"
    rewritten = invoke("rewrite", guest, "-o", output, "--json", "-")
    promise = validated(rewritten.stdout, "rewrite-1")["restore"]
    done = invoke("restore", output, "-o", back, "--json", "-")
    assert done.returncode == ExitCode.SUCCESS
    report = validated(done.stdout, "restore-1")
    assert report["gives"] == promise["gives"] == "input"
    assert report["output_sha256"] == promise["sha256"]
    assert report["note_len"] == promise["note_len"]
    assert back.read_bytes() == guest.read_bytes()


def test_verify_of_a_changed_kernel_is_a_finding(guest: Path, tmp_path: Path) -> None:
    output = tmp_path / "vmlinux.vmi"
    invoke("rewrite", guest, "-o", output)
    data = bytearray(output.read_bytes())
    at = data.index(b"\x3e\x3e\x3e\x3e\xfa")
    data[at + 4] = 0xFB
    output.write_bytes(data)
    result = invoke("verify", "--static", output, "--original", guest)
    assert result.returncode == ExitCode.FINDINGS
    assert "VP" in result.stdout
    assert "does not hold" in result.stdout


def test_verify_against_another_file_than_the_rewritten_one_is_a_finding(
    guest: Path, tmp_path: Path
) -> None:
    output, other = tmp_path / "vmlinux.vmi", tmp_path / "other"
    invoke("rewrite", guest, "-o", output)
    other.write_bytes(guest.read_bytes() + b"x")
    result = invoke("verify", "--static", output, "--original", other)
    assert result.returncode == ExitCode.FINDINGS
    assert "VP054" in result.stdout


def test_sites_alone_are_executed_with_their_faults(guest: Path, tmp_path: Path) -> None:
    output, paper = tmp_path / "vmlinux.vmi", tmp_path / "certificate.json"
    invoke("rewrite", guest, "-o", output)
    result = invoke(
        "verify", "--sites", "--states", "5", output, "--certificate", paper, "--json", "-"
    )
    report = validated(result.stdout, "verify-2")
    assert (result.returncode, report["statement"]) == (ExitCode.SUCCESS, "executed")
    found = report["translations"]
    assert found["shapes"] > 150
    assert found["faults"] > found["states"] == 5
    listing = subprocess.run(["objdump", "-d", guest], capture_output=True, text=True, check=True)
    assert found["left_out"]["far jmp"] == listing.stdout.count("ljmp") > 0
    certificate = validated(paper.read_text(), "certificate-1")
    assert certificate["translations"]["faults"] == found["faults"]
    assert any("--original" in line["how"] for line in certificate["not_done"])


def test_quiet_says_nothing(guest: Path, tmp_path: Path) -> None:
    for arguments in (
        ("-q", "rewrite", guest),
        ("rewrite", "-q", guest),
        ("-v", "rewrite", "-q", guest),
    ):
        result = invoke(*arguments, "-o", tmp_path / "out")
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_verbose_works_before_and_after_the_command(guest: Path) -> None:
    results = [invoke("scan", guest), invoke("-v", "scan", guest), invoke("scan", guest, "-v")]
    plain, before, following = (TIME.sub("", result.stderr) for result in results)
    assert ".text: " in following
    assert (plain, before) == ("", following)


def test_version_is_the_package_version() -> None:
    assert vmipatch("--version").stdout == f"vmipatch, version {__version__}\n"


def test_a_command_does_not_wait_for_the_imports_of_the_others() -> None:
    check = "import sys, vmipatch.cli.rewrite; print({'unicorn', 'capstone'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_unknown_command_is_answered_with_the_one_that_was_meant() -> None:
    result = invoke("rewrit")
    assert result.returncode == ExitCode.USAGE
    assert "rewrite" in result.stderr


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_each_command_has_help_with_an_example(command: str) -> None:
    result = invoke(command, "--help")
    assert result.returncode == ExitCode.SUCCESS
    assert "Example: " in result.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_names_our_variable(shell: str) -> None:
    assert "_VMIPATCH_COMPLETE" in invoke("completion", shell).stdout


def test_help_documents_every_exit_code() -> None:
    text = invoke("--help").stdout
    for code in (*ExitCode, INTERRUPTED):
        assert f" {int(code)}  " in text


def test_explain_knows_the_rules_that_findings_name() -> None:
    listed = invoke("explain").stdout.split()
    numbers = [word for word in listed if word.startswith("VP") and word[2:].isdigit()]
    assert "VP001" in numbers
    assert invoke("explain", numbers[-1]).returncode == ExitCode.SUCCESS
    assert invoke("explain", "VP999").returncode == ExitCode.USAGE


def test_each_command_has_a_schema_for_its_json() -> None:
    schemas = {path.stem.rpartition("-")[0] for path in (ROOT / "docs" / "schemas").iterdir()}
    # certificates are documents of their own, and so is what is said of modules
    more = {"certificate", "in-toto-statement", "tree", "tree-certificate", "tree-scan"}
    assert schemas == {*cli.commands, *more}
    for name in cli.commands:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        assert any("--json" in parameter.opts for parameter in command.params), name


def test_wrap_and_run_report_what_they_did(guest: Path, tmp_path: Path) -> None:
    image, log = tmp_path / "bzImage", tmp_path / "wrap.json"
    assert invoke("wrap", guest, "-o", image, "--json", log).returncode == ExitCode.SUCCESS
    report = validated(log.read_text(), "wrap-1")
    assert report["output_len"] == image.stat().st_size
    assert report["output_sha256"] == hashlib.sha256(image.read_bytes()).hexdigest()
    ran = invoke("run", "--audit", image, "--limit", "0.01", "--json", "-")
    assert validated(ran.stdout, "run-1")["mode"] == "audit"


def test_rom_report_is_about_its_file(tmp_path: Path) -> None:
    result = invoke("rom", "--flavor", "native", "-o", tmp_path / "rom", "--json", "-")
    report = validated(result.stdout, "rom-1")
    digest = hashlib.sha256((tmp_path / "rom").read_bytes()).hexdigest()
    assert (report["flavor"], report["output_sha256"]) == ("native", digest)


def test_explain_and_completion_report_what_they_print() -> None:
    rules = validated(invoke("explain", "--json", "-").stdout, "explain-1")["rules"]
    listed = invoke("explain").stdout.splitlines()
    assert [f"{rule['number']}  {rule['title']}" for rule in rules] == listed
    one = validated(invoke("explain", "vp001", "--json", "-").stdout, "explain-1")["rules"]
    assert one == [rule for rule in rules if rule["number"] == "VP001"]
    script = validated(invoke("completion", "bash", "--json", "-").stdout, "completion-1")["script"]
    assert script == invoke("completion", "bash").stdout.removesuffix("\n")

# SPDX-License-Identifier: MIT
"""Does `vmipatch run` offer the hypervisor, and say what it found?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.emu.ring1_guest import INIT
from tests.support.elfbuilder import TEXT, ElfBuilder
from vmipatch.cli.run import run_command
from vmipatch.errors import ExitCode, InputNotUnderstood
from vmipatch.isa.assemble import assemble

CODE_PA = 0x200000
REBOOT = "mov al, 0xfe\n out 0x64, al\n"
STACK = "mov esp, 0x300000\n"


def write_kernel(path: Path, source: str) -> Path:
    builder = ElfBuilder(entry=CODE_PA, physical_offset=0)
    builder.section(".text", CODE_PA, assemble(source, CODE_PA).code, TEXT, align=4096)
    path.write_bytes(builder.build())
    return path


def invoke(kernel: Path, *options: str) -> Result:
    return CliRunner().invoke(run_command, [str(kernel), "--memory", "8", *options])


@pytest.mark.parametrize("option", ["--trap", "--paravirt", "--audit"])
def test_kernel_runs_at_ring_1(tmp_path: Path, option: str) -> None:
    kernel = write_kernel(tmp_path / "kernel", f"cli\n {REBOOT}")
    result = invoke(kernel, option)
    assert result.exit_code == ExitCode.SUCCESS, result.output
    assert "at CPL 1" in result.output and "cli" in result.output


def test_one_has_to_say_how(tmp_path: Path) -> None:
    assert invoke(write_kernel(tmp_path / "kernel", REBOOT)).exit_code == ExitCode.USAGE


def test_audit_fails_for_what_would_be_silently_wrong(tmp_path: Path) -> None:
    kernel = write_kernel(tmp_path / "kernel", f"{STACK} {INIT} pushfd\n cli\n {REBOOT}")
    report = tmp_path / "report.json"
    audited = invoke(kernel, "--audit", "--json", str(report))
    assert audited.exit_code == ExitCode.FINDINGS
    assert "9c" in audited.output and "pushf" in audited.output
    found = json.loads(report.read_text())["findings"]
    assert [(row["form"], row["unprivileged"]) for row in found] == [
        ("pushf", True),
        ("cli", False),
    ]
    assert invoke(kernel, "--paravirt").exit_code == ExitCode.SUCCESS


def test_rom_of_somebody_else_is_refused(tmp_path: Path) -> None:
    kernel = write_kernel(tmp_path / "kernel", REBOOT)
    other = tmp_path / "other.rom"
    other.write_bytes(b"\x55\xaa\x01" + bytes(509))
    result = invoke(kernel, "--paravirt", "--rom", str(other))
    assert isinstance(result.exception, InputNotUnderstood)

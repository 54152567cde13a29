# SPDX-License-Identifier: MIT
"""Does `vmipatch run` show the guest's console and tell how it ended?"""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.support.elfbuilder import TEXT, ElfBuilder
from vmipatch.cli.run import run_command
from vmipatch.cli.terminal import HostTerminal
from vmipatch.emu.report import GuestEnded
from vmipatch.errors import EnvironmentProblem, ExitCode, MalformedImage
from vmipatch.image.elf import ElfImage
from vmipatch.image.setup_header import HEADER_OFF, LoadFlag, SetupHeader
from vmipatch.image.wrap import wrap
from vmipatch.isa.assemble import assemble

CODE_PA = 0x200000
SAY_OK = "mov edx, 0x3f8\n mov al, 0x4f\n out dx, al\n mov al, 0x4b\n out dx, al\n"
REBOOT = "mov al, 0xfe\n out 0x64, al\n"


def write_kernel(path: Path, source: str) -> Path:
    builder = ElfBuilder(entry=CODE_PA, physical_offset=0)
    builder.section(".text", CODE_PA, assemble(source, CODE_PA).code, TEXT, align=4096)
    path.write_bytes(builder.build())
    return path


def invoke(kernel: Path, *options: str) -> Result:
    return CliRunner().invoke(run_command, [str(kernel), "--native", "--memory", "8", *options])


def test_guest_that_reboots_is_a_success(tmp_path: Path) -> None:
    result = invoke(write_kernel(tmp_path / "vmlinux", SAY_OK + REBOOT))
    assert result.exit_code == ExitCode.SUCCESS
    assert result.stdout == "OK"
    assert "the guest reset the machine" in result.stderr
    assert "port write" in result.stderr


@pytest.mark.parametrize("source", ["ud2", "here: jmp here"])
def test_guest_that_did_not_mean_to_end_is_a_finding(tmp_path: Path, source: str) -> None:
    kernel = write_kernel(tmp_path / "vmlinux", f"lidt [empty]\n {source}\n empty: .long 0xff, 0")
    result = invoke(kernel, "--limit", "0.01")
    assert result.exit_code == ExitCode.FINDINGS


def write_old_bzimage(path: Path, source: str, **changes: int) -> Path:
    """A bzImage as of Linux 2.6.21, `source` its protected-mode code."""
    code = assemble(source, 0x100000).code
    fields = {"syssize": (len(code) + 15) // 16, "kernel_alignment": 0x400000, **changes}
    header = SetupHeader(
        setup_sects=1, jump=0x3AEB, version=0x0205, loadflags=LoadFlag.LOADED_HIGH, **fields
    )
    setup = (bytes(HEADER_OFF) + header.emit()).ljust(header.code_off, b"\0")
    path.write_bytes(setup + code)
    return path


@pytest.mark.parametrize("mode", ["--native", "--trap", "--paravirt"])
def test_bzimage_that_hides_its_payload_unpacks_itself(tmp_path: Path, mode: str) -> None:
    """Its code finds its own header in the zero page, and what the loader has to add."""
    checks = f"""
        cmp dword ptr [esi + 0x230], 0x400000
        jne bad
        cmp dword ptr [esi + 0x21C], 5
        jne bad
        cmp byte ptr [esi + 0x210], 0xFF
        jne bad
        {SAY_OK}
    bad:
        {REBOOT}
    """
    kernel = write_old_bzimage(tmp_path / "vmlinuz", checks)
    initrd = tmp_path / "initrd"
    initrd.write_bytes(b"files")
    arguments = [str(kernel), mode, "--memory", "8", "--initrd", str(initrd)]
    result = CliRunner().invoke(run_command, arguments)
    assert (result.exit_code, result.stdout) == (ExitCode.SUCCESS, "OK")


def test_bzimage_that_lacks_its_end_is_refused(tmp_path: Path) -> None:
    kernel = write_old_bzimage(tmp_path / "vmlinuz", REBOOT, syssize=2)
    result = invoke(kernel)
    assert isinstance(result.exception, MalformedImage)
    assert "truncated" in str(result.exception.hint)


def test_report_says_the_same_each_time(tmp_path: Path) -> None:
    kernel = write_kernel(tmp_path / "vmlinux", SAY_OK + "rdtsc\n" + REBOOT)
    reports = []
    for name in ("first", "second"):
        invoke(kernel, "--json", str(tmp_path / name))
        reports.append((tmp_path / name).read_text())
    assert reports[0] == reports[1]
    report = json.loads(reports[0])
    assert report["schema"] == "vmipatch.run/1"
    assert (report["ending"], report["by_guest"], report["mode"]) == ("reset", True, "native")
    assert report["calls"]["rdtsc"] == 1
    assert len(report["memory_sha256"]) == 64


def test_report_on_standard_output_is_not_mixed_with_the_console(tmp_path: Path) -> None:
    result = invoke(write_kernel(tmp_path / "vmlinux", SAY_OK + REBOOT), "--json", "-")
    assert json.loads(result.stdout)["by_guest"]
    assert result.stderr.startswith("OK")


def test_trace_is_written(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    invoke(write_kernel(tmp_path / "vmlinux", SAY_OK + REBOOT), "--trace", str(trace))
    lines = trace.read_text().splitlines()
    assert lines[0].startswith("0.00000")
    assert lines[0].endswith("out 0x3f8 <- 0x4f")
    assert lines[-1].endswith("the guest reset the machine")


def test_trace_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    kernel = write_kernel(tmp_path / "vmlinux", REBOOT)
    result = invoke(kernel, "--trace", str(tmp_path / "missing" / "trace"))
    assert isinstance(result.exception, EnvironmentProblem)


def test_kernel_inside_a_bzimage_runs(tmp_path: Path) -> None:
    vmlinux = write_kernel(tmp_path / "vmlinux", SAY_OK + REBOOT)
    bzimage = tmp_path / "bzImage"
    bzimage.write_bytes(wrap(ElfImage.parse(vmlinux.read_bytes()), None))
    assert invoke(bzimage).stdout == "OK"


ECHO = (
    """
    mov edx, 0x3fd
wait:
    in al, dx
    test al, 1
    jz wait
    mov edx, 0x3f8
    in al, dx
    out dx, al
    mov edx, 0x3fd
    cmp al, 0x2e
    jne wait
"""
    + REBOOT
)
"""Sends what it receives, up to a full stop."""


def run_on_terminal(kernel: Path, keys: bytes) -> tuple[int, bytes]:
    """Exit code and output, through a pipe, of the command where `keys` are typed."""
    command = [sys.executable, "-c", "from vmipatch.cli.run import run_command; run_command()"]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*command, str(kernel), "--native", "--memory", "8"],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    os.write(ours, keys)
    output, _ = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    return process.returncode, output


def test_keys_reach_the_guest(tmp_path: Path) -> None:
    kernel = write_kernel(tmp_path / "vmlinux", ECHO)
    assert run_on_terminal(kernel, b"a\x01\x01b.") == (ExitCode.SUCCESS, b"a\\x01b.")


def test_user_can_end_the_run(tmp_path: Path) -> None:
    kernel = write_kernel(tmp_path / "vmlinux", ECHO)
    assert run_on_terminal(kernel, b"ab\x01x")[0] == ExitCode.FINDINGS


def test_escape_is_recognised_across_two_readings() -> None:
    terminal = HostTerminal()
    assert terminal._without_escapes(b"a\x01") == b"a"
    with pytest.raises(GuestEnded, match="user"):
        terminal._without_escapes(b"x")

# SPDX-License-Identifier: MIT
"""Does bad input give one clear error, its exit code, and no output file?"""

from __future__ import annotations

import re
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.commands import Done, invoke, vmipatch
from vmipatch.errors import ExitCode, MalformedImage
from vmipatch.image.elf import ElfImage

Damage = Callable[[bytes], bytes]


def _one_error(result: Done | subprocess.CompletedProcess[str], file: Path) -> str:
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("vmipatch: ")
    assert str(file) in lines[0]
    assert lines[0].endswith(")"), "the remedy stands at the end"
    assert result.stdout == ""
    return lines[0]


def _without_relocations(data: bytes) -> bytes:
    """The file as `strip --remove-relocations` leaves it, as far as the headers tell."""
    image = ElfImage.parse(data)
    (shoff,) = struct.unpack_from("<I", data, 32)
    result = bytearray(data)
    for section in image.sections:
        if section.name.startswith(".rel"):
            struct.pack_into("<2I", result, shoff + 40 * section.index, 0, 1)
    return bytes(result)


BAD: dict[str, tuple[Damage, str]] = {
    "empty": (lambda data: b"", "empty"),
    "text": (lambda data: b"a line of text\n" * 40, "not an ELF file"),
    "four bytes": (lambda data: data[:4], "not a 32-bit"),
    "headers cut": (lambda data: data[:60], "ends before"),
    "cut in the middle": (lambda data: data[: len(data) // 2], "ends before"),
    "64-bit": (lambda data: data[:4] + b"\x02" + data[5:], "not a 32-bit"),
    "other machine": (lambda data: data[:18] + b"\x28\x00" + data[20:], "not i386"),
    "no relocations": (_without_relocations, "has no relocations, so not every reference"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_kernel_is_refused_without_a_trace(name: str, guest: Path, tmp_path: Path) -> None:
    damage, expected = BAD[name]
    kernel, output = tmp_path / "vmlinux", tmp_path / "out" / "vmlinux.vmi"
    output.parent.mkdir()
    kernel.write_bytes(damage(guest.read_bytes()))
    result = invoke("rewrite", kernel, "-o", output)
    assert result.returncode == ExitCode.INPUT
    message = _one_error(result, kernel)
    assert re.search(expected, message)
    assert not list(output.parent.iterdir())


def test_rewritten_kernel_is_not_rewritten_again(guest: Path, tmp_path: Path) -> None:
    once, twice = tmp_path / "once", tmp_path / "twice"
    assert invoke("rewrite", guest, "-o", once).returncode == ExitCode.SUCCESS
    result = invoke("rewrite", once, "-o", twice)
    assert result.returncode == ExitCode.INPUT
    assert "rewritten already" in _one_error(result, once)
    assert not twice.exists()


def test_missing_kernel_is_an_environment_problem(tmp_path: Path) -> None:
    """As a process: its exit code is what counts."""
    result = vmipatch("scan", tmp_path / "nothing")
    assert result.returncode == ExitCode.ENVIRONMENT
    assert "cannot be read" in _one_error(result, tmp_path / "nothing")


def test_unwritable_output_leaves_the_old_file(guest: Path, tmp_path: Path) -> None:
    output = tmp_path / "missing" / "vmlinux.vmi"
    result = invoke("rewrite", guest, "-o", output)
    assert result.returncode == ExitCode.ENVIRONMENT
    _one_error(result, output)
    directory = tmp_path / "taken"
    directory.mkdir()
    result = invoke("rewrite", guest, "-o", directory)
    assert result.returncode == ExitCode.ENVIRONMENT
    assert sorted(tmp_path.iterdir()) == [directory], "nothing half written beside it"


@contextmanager
def _small_disk(directory: Path) -> Iterator[Path]:
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(directory)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield directory if mounted else Path("/dev/full")
    finally:
        if mounted:
            subprocess.run(["umount", str(directory)], check=True)


def test_full_disk_leaves_nothing_after(guest: Path, tmp_path: Path) -> None:
    """On a file system of 16 KB where we may mount one, else on the device that is always full."""
    with _small_disk(tmp_path / "small") as disk:
        output = disk / "vmlinux.vmi" if disk.is_dir() else disk
        before = sorted(disk.iterdir()) if disk.is_dir() else []
        result = invoke("rewrite", guest, "-o", output)
        assert result.returncode == ExitCode.ENVIRONMENT
        assert "cannot be written" in _one_error(result, output)
        assert (sorted(disk.iterdir()) if disk.is_dir() else []) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("rewrite",),
        ("rewrite", "k"),
        ("scan", "--pad"),
        ("verify", "--static", "k"),
        ("verify", "--lockstep", "k"),
        ("verify", "--sites", "k", "--require-coverage", "1"),
        ("none",),
    ],
)
def test_wrong_command_line_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    result = invoke(*arguments)
    assert result.returncode == ExitCode.USAGE
    assert "Usage: vmipatch" in result.stderr


def test_an_error_is_one_line_whatever_the_file_holds() -> None:
    error = MalformedImage("section 3 (a\nb\x1b[31m) is damaged", file="kern\x07el")
    assert str(error).startswith(r"kern\x07el: section 3 (a\nb\x1b[31m) is damaged")
    assert "\n" not in str(error)

# SPDX-License-Identifier: MIT
"""Does a bzImage come back, boot code and packing too, or is it said what does not?"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.commands import invoke, validated
from tests.conftest import KernelFinder
from vmipatch.errors import ExitCode
from vmipatch.image.bzimage import BzImage

pytestmark = pytest.mark.kernels

GZIP_TIME_OFF = 4
"""RFC 1952: MTIME, which Linux's build leaves 0."""


def payload_range(data: bytes) -> tuple[int, int]:
    header = BzImage.parse(data).header
    start = header.code_off + header.payload_offset
    return start, start + header.payload_length


def round_trip(bzimage: Path, vmlinux: Path, *options: str) -> tuple[str, bytes]:
    """The output that restore announces, and the output that it writes."""
    output, back = bzimage.with_suffix(".vmi"), bzimage.with_suffix(".back")
    arguments: list[str | Path] = ["--debug", vmlinux, "-o", output, "--json", "-", *options]
    rewritten = invoke("rewrite", bzimage, *arguments)
    assert rewritten.returncode == ExitCode.SUCCESS, rewritten.stderr
    promise = validated(rewritten.stdout, "rewrite-1")["restore"]
    restored = invoke("restore", output, "-o", back, "--json", "-")
    assert restored.returncode == ExitCode.SUCCESS, restored.stderr
    report = validated(restored.stdout, "restore-1")
    assert (report["gives"], report["output_sha256"]) == (promise["gives"], promise["sha256"])
    assert report["note_len"] == promise["note_len"]
    return report["gives"], back.read_bytes()


@pytest.fixture
def original(kernel: KernelFinder, tmp_path: Path) -> Path:
    """A copy of tiny's bzImage, signed as far as bytes after the image are a signature."""
    data = kernel("tiny").with_name("bzImage").read_bytes()
    path = tmp_path / "bzImage"
    path.write_bytes(data + b"signature" * 9)
    return path


@pytest.fixture
def packed_otherwise(original: Path) -> Path:
    """The same, its payload packed by an unknown program."""
    data = bytearray(original.read_bytes())
    data[payload_range(bytes(data))[0] + GZIP_TIME_OFF] = 1
    original.write_bytes(data)
    return original


def test_bzimage_comes_back_to_the_last_byte(original: Path, kernel: KernelFinder) -> None:
    gives, back = round_trip(original, kernel("tiny"))
    assert gives == "input"
    assert back == original.read_bytes()


def test_kernel_inside_comes_back_if_nobody_knows_how_it_was_packed(
    packed_otherwise: Path, kernel: KernelFinder
) -> None:
    gives, back = round_trip(packed_otherwise, kernel("tiny"))
    assert gives == "payload"
    assert back == BzImage.parse(packed_otherwise.read_bytes()).vmlinux


def test_bzimage_packed_by_nobody_knows_what_comes_back_if_it_was_kept(
    packed_otherwise: Path, kernel: KernelFinder
) -> None:
    gives, back = round_trip(packed_otherwise, kernel("tiny"), "--keep-original")
    assert gives == "input"
    assert back == packed_otherwise.read_bytes()


def test_damaged_and_missing_notes_are_refused(original: Path, kernel: KernelFinder) -> None:
    round_trip(original, kernel("tiny"))
    output, back = original.with_suffix(".vmi"), original.with_suffix(".none")
    data = output.read_bytes()
    _, end = payload_range(data)
    for off, said in (
        (end, "no note after its payload"),
        (end + 40, "the note is damaged"),
        (len(data) - 100, "another SHA-256"),
    ):
        damaged = bytearray(data)
        damaged[off] ^= 1
        output.write_bytes(damaged)
        result = invoke("restore", output, "-o", back)
        assert result.returncode == ExitCode.INPUT
        assert said in result.stderr
        assert not back.exists()


def test_kernel_comes_back_from_vmipatchs_own_boot_code(
    original: Path, kernel: KernelFinder
) -> None:
    vmlinux = kernel("tiny")
    given = BzImage.parse(original.read_bytes()).vmlinux
    gives, back = round_trip(original, vmlinux, "--boot-code", "own")
    assert (gives, back) == ("payload", given)

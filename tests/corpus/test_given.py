# SPDX-License-Identifier: MIT
"""Are kernels that somebody brings told from other files, and put together with their twins?"""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.corpus.given import kernels_in

ELF = b"\x7fELF\x01\x01".ljust(16, b"\0") + struct.pack("<HH", 2, 3)
MODULE = b"\x7fELF\x01\x01".ljust(16, b"\0") + struct.pack("<HH", 1, 3)
ELF_64 = b"\x7fELF\x02\x01".ljust(16, b"\0") + struct.pack("<HH", 2, 62)
PACKED = bytes(0x202) + b"HdrS" + bytes(16)


def found(directory: Path, files: dict[str, bytes]) -> list[tuple[str, str, str]]:
    """Name, bzImage and vmlinux of each kernel that is found."""
    for name, data in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    return [
        (kernel.name, base(kernel.packed), base(kernel.linked)) for kernel in kernels_in(directory)
    ]


def base(path: Path | None) -> str:
    """The last part of a path, if there is one."""
    return path.name if path else ""


@pytest.mark.parametrize(
    ("packed", "linked"),
    [
        ("vmlinuz-5.10.0-32-686", "vmlinux-5.10.0-32-686"),
        ("bzImage", "vmlinux"),
        ("bzImage", "vmlinux.unstripped"),
        ("old.bzImage", "old.vmlinux"),
        ("old", "old.vmlinux"),
        ("old", "old.debug"),
    ],
)
def test_twin_is_known_by_its_name(tmp_path: Path, packed: str, linked: str) -> None:
    files = {packed: PACKED, linked: ELF}
    assert found(tmp_path, files) == [(f"given/{packed}", packed, linked)]


def test_kernel_without_a_twin_stands_alone(tmp_path: Path) -> None:
    files = {"a/vmlinuz-1": PACKED, "a/vmlinux-2": ELF}
    names = [("given/a/vmlinuz-1", "vmlinuz-1", ""), ("given/a/vmlinux-2", "", "vmlinux-2")]
    assert found(tmp_path, files) == names


def test_other_files_are_no_kernels(tmp_path: Path) -> None:
    files = {"vmlinux": MODULE, "vmlinuz": b"text", "vmlinux-64": ELF_64, "empty": b""}
    assert found(tmp_path, files) == []


def test_directory_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError):
        list(kernels_in(tmp_path / "missing"))
